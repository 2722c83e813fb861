"""What a device or an edge server runs of a deployment: a package that also works on its own.

It imports the standard library, numpy, onnxruntime and constriction (pyzmq for serving, Pillow where images are files),
and itself by relative names alone. `autosplit export` copies it into every bundle as the folder `coinference`, so that
`python -m coinference` runs there without torch or autosplit. Rooms, each importing only from those before it:
`payload`, `control`, `bundle`, `protocol`, then `edge` and `device`, which do not know each other, and `gateway`, which
asks the edge for devices without TCP. Begin with `commands`.
"""
