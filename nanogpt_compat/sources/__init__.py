"""What there is to read: inputs named on the command line, and the blocks they are read in."""
