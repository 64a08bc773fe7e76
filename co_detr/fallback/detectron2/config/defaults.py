"""The default values of yacs configs: what trainers, predictors and data loaders read.

Options of detectron2's own models are left out; a project adds its own node for its model.
"""

from .config import CfgNode as CN

_C = CN()
_C.VERSION = 2
_C.OUTPUT_DIR = "./output"
_C.SEED = -1  # negative: choose one and log it
_C.CUDNN_BENCHMARK = False
_C.VIS_PERIOD = 0

_C.MODEL = CN()
_C.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"  # a name in META_ARCH_REGISTRY
_C.MODEL.DEVICE = "cuda"
_C.MODEL.WEIGHTS = ""
_C.MODEL.MASK_ON = False
_C.MODEL.PIXEL_MEAN = [103.530, 116.280, 123.675]  # in the order of INPUT.FORMAT
_C.MODEL.PIXEL_STD = [1.0, 1.0, 1.0]

_C.INPUT = CN()
_C.INPUT.FORMAT = "BGR"
_C.INPUT.MIN_SIZE_TRAIN = (800,)  # shorter side in pixels
_C.INPUT.MIN_SIZE_TRAIN_SAMPLING = "choice"  # or "range", between two values
_C.INPUT.MAX_SIZE_TRAIN = 1333
_C.INPUT.MIN_SIZE_TEST = 800  # 0 keeps the size
_C.INPUT.MAX_SIZE_TEST = 1333
_C.INPUT.RANDOM_FLIP = "horizontal"  # or "vertical", "none"
_C.INPUT.MASK_FORMAT = "polygon"  # or "bitmask"
_C.INPUT.CROP = CN({"ENABLED": False})
_C.INPUT.CROP.TYPE = "relative_range"
_C.INPUT.CROP.SIZE = [0.9, 0.9]

_C.DATASETS = CN()
_C.DATASETS.TRAIN = ()  # names in DatasetCatalog
_C.DATASETS.TEST = ()

_C.DATALOADER = CN()
_C.DATALOADER.NUM_WORKERS = 4  # for each process
_C.DATALOADER.ASPECT_RATIO_GROUPING = True
_C.DATALOADER.SAMPLER_TRAIN = "TrainingSampler"  # or "RepeatFactorTrainingSampler"
_C.DATALOADER.REPEAT_THRESHOLD = 0.0
_C.DATALOADER.REPEAT_SQRT = True
_C.DATALOADER.FILTER_EMPTY_ANNOTATIONS = True

_C.SOLVER = CN()
_C.SOLVER.LR_SCHEDULER_NAME = "WarmupMultiStepLR"  # or "WarmupCosineLR"
_C.SOLVER.MAX_ITER = 40000
_C.SOLVER.BASE_LR = 0.001
_C.SOLVER.BASE_LR_END = 0.0  # for WarmupCosineLR
_C.SOLVER.MOMENTUM = 0.9
_C.SOLVER.NESTEROV = False
_C.SOLVER.WEIGHT_DECAY = 0.0001
_C.SOLVER.WEIGHT_DECAY_NORM = 0.0
_C.SOLVER.WEIGHT_DECAY_BIAS = None  # None: that of weights
_C.SOLVER.BIAS_LR_FACTOR = 1.0
_C.SOLVER.GAMMA = 0.1
_C.SOLVER.STEPS = (30000,)
_C.SOLVER.WARMUP_FACTOR = 1.0 / 1000
_C.SOLVER.WARMUP_ITERS = 1000
_C.SOLVER.WARMUP_METHOD = "linear"  # or "constant"
_C.SOLVER.CHECKPOINT_PERIOD = 5000
_C.SOLVER.IMS_PER_BATCH = 16  # over all processes
_C.SOLVER.REFERENCE_WORLD_SIZE = 0  # positive: scale batch and learning rate to the processes
_C.SOLVER.AMP = CN({"ENABLED": False})
_C.SOLVER.CLIP_GRADIENTS = CN({"ENABLED": False})
_C.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "value"  # or "norm", of each parameter
_C.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 1.0
_C.SOLVER.CLIP_GRADIENTS.NORM_TYPE = 2.0

_C.TEST = CN()
_C.TEST.DETECTIONS_PER_IMAGE = 100  # for models to go by
_C.TEST.EVAL_PERIOD = 0  # 0: after training only
