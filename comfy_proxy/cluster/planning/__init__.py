"""What a prompt needs and how long that takes: values and figures to place and order work by."""
