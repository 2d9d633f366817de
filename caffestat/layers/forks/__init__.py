"""Layer types that forks of Caffe added, one file per family; importing this package registers them all.

Each class is of one dialect: the fork whose fields and meaning it has.
"""

from . import (  # noqa: F401  registers their layer types
    batch_norm,
    capsules,
    cascade,
    crf,
    ctc,
    data,
    deformable,
    faces,
    fields,
    flow,
    fpga,
    geometry,
    interpolation,
    metric,
    mobile,
    octree,
    pixelwise,
    pose,
    proposals,
    quantized,
    rcnn,
    rearrange,
    regions,
    resampling,
    ristretto,
    rois,
    segmentation,
    sequences,
    ssd,
    steganalysis,
    volumes,
    warping,
)
