"""The project's benchmark: predictors x data with known answers, one table.  ``python -m suite`` runs it.

Parts, each with a fixed seed, on data that no bundled model has seen:

* ``kinematical``: fresh noisy patterns of aluminium, spots from diffsims, drawn with NumPy.
* ``multislice``: dynamical patterns of Al and LiNiO2 with exact truth, at two doses.
* ``mgo``: a real scan, with cubes, vacuum and carbon film whose places are known.
* ``speed``: from a lazy signal to the crystal map.
* ``cost``: CPU time for a pattern, and its ratio to what the products of matrices alone would take.
* ``engine``: what the host does for a pattern, memory of long scans, clusters.
* ``disks``: Bragg disks with exact truth, on the real scan, strain of a multilayer, and speed.
* ``strain``: errors of strain by thickness, of several samples and seeds, with pyxem's maps and with own lattices.
* ``vectors``: orientations of the multislice patterns from their disks, without training for the crystal.
* ``tilt``: of patterns with known orientations, from their disks.
* ``overlap``: two crystals above each other, added up from patterns of single ones.
* ``images``: regions of simulated atomic-resolution images, and structures in their windows.
* ``gpu``: speed on a GPU, and whether its answers are the CPU's; left out where there is none.
* ``labelled``, ``labelled_mgo``, ``choices``, ``tuning``: networks that are trained here, for some minutes each, on a
  simulated polycrystal and on the real scan that template matching has labelled; their models are thrown away.
* ``verifier``: the model of any crystal, which goes on learning with and without Bloch waves among its patterns.

A predictor is a function from a signal to a crystal map: to add one, add a line to ``_predictors`` of
:mod:`suite.running`; what finds disks is a function from a signal and a probe to vectors, see ``_finders``.  Every
accuracy is given twice, strict and modulo 180 degrees about the beam; patterns that are not indexed count as wrong.
"""
