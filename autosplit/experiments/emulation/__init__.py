"""A link that is really crossed: two hosts on one machine, with a channel of a profile between them in real time."""
