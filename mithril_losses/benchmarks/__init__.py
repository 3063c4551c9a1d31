"""`mithril-losses bench`: times of values and gradients of this package and of its alternatives."""
