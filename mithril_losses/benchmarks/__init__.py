"""`mithril-losses bench`: values and gradients of this package, timed against everything a user would pick instead."""
