"""The command line, for operators and for those who bring customers from elsewhere. The service imports none of it."""
