"""The asset databases of all instances as one."""
