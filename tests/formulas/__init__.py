"""The first line of every loss and of every gradient once more, as written, in a few lines of plain NumPy.

A module for each family. `name` returns the unreduced losses, or the loss where there is nothing to reduce.
`name_gradient` returns the gradient by argument for s = ∂L/∂ℓ: what a docstring writes as "/ n" or "/ B" is "· s" here,
so that one formula serves every reduction. Nothing is shared with the package, and nothing is made stable or fast.
"""
