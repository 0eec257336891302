"""The commands as they are typed: their names, options and help; what they do stands beside."""
