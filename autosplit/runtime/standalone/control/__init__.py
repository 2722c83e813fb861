"""Controllers: what a device does with the picture in hand, from what it knows of its queue and of its link.

Numpy alone, for any number of devices at once: a bundle's device runs the same lines that a simulation of a thousand
devices does. Begin with `view` (what a device knows), then `rules` (what needs no training) and `network`; `estimates`
are what a device makes of its exchanges, `record` what a bundle holds of its controller.
"""
