"""The simulator: whole clusters of production turns on fake wires, disks and clocks, from one seed."""
