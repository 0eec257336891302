"""How this machine runs a training: devices, processes, other machines."""
