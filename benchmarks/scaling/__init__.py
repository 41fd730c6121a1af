"""What more than one node, and more than one machine, would carry: measured where it can be, simulated beyond."""
