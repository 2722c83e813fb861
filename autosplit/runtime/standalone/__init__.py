"""What a device or an edge server runs of a deployment: a package that also works on its own.

It imports the standard library, numpy, onnxruntime and constriction (Pillow where images cross as files), and itself
by relative names alone. `autosplit export` copies it into every bundle as the folder `coinference`, so that
`python -m coinference` runs there without torch or autosplit.
"""
