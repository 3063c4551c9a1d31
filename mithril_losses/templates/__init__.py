"""Templates say how a kind of loss is computed: they make value and gradient from the mathematics of one loss."""
