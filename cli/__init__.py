"""The command line: its manners, its commands, the demonstration."""
