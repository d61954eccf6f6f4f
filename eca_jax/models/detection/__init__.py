"""RetinaNet, Faster and Mask R-CNN on any backbone with feature maps: functions of arrays, heads, models by name."""
