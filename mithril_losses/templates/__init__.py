"""How a kind of loss is computed: from the mathematics of one loss to its value, its gradient, and both at once."""
