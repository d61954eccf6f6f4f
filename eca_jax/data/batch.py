"""The names of a batch's arrays.

`IMAGE` uint8 [N, H, W, C], `LABEL` int32 [N], and `MASK` float32 [N], 0 for a row that does not count: an undecodable
image in training, padding of the last batch in evaluation.
"""

IMAGE, LABEL, MASK = "image", "label", "mask"
