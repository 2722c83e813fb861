"""The radio link: packets, retransmissions, rates that move."""
