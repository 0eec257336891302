"""`make gpu`: what must hold on a GPU, checked and measured at first contact with one."""
