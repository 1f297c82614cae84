"""What can be run: template files, the parameters that they take, the graphs that come of them."""
