"""The model: a batch of users -> the loss of their profiles, or the profiles themselves.

Dimension letters mean the same in every file that states shapes:

===== =================================================================================================
U     users of a batch
R     rows of a batch: one user in one view, or one attribute of a user in one view; r: some of them
T     distinct texts of a batch
S     tokens of its longest text
N     tokens of a row's texts together
N'    states that the decoder reads of a row: N, or N + V where visual tokens stand among them
P     distinct photos of a batch
K     photos of a row
M     visual tokens of a photo
V     visual tokens of a row, K * M
L     tokens of a row's target
d, dv width of the text model and of the vision model
H     attention heads
A     attributes of the schema
C     classes of all attributes, side by side
O     parts of a head, each with an opinion on every attribute
E     edges in the graphs of all rows
W     new nodes of a user's tree of partial profiles, filled up
G     all nodes of a user's tree
F     new nodes of all users' trees, not filled up
Q     partial profiles
B     bootstrap resamples
n     any other number
===== =================================================================================================

``views``, ``classes`` (of one attribute), ``height``, ``width`` and the like are written out.
"""
