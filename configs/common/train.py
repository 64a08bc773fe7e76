"""Defaults of the section `train`: how a model is trained, apart from its schedule."""

import torch

train = dict(
    output_dir="./output",
    init_checkpoint="",  # weights to start from, or to evaluate
    max_iter=90000,
    seed=0,  # negative: a random one, which is kept for resuming
    device="cuda" if torch.cuda.is_available() else "cpu",
    cudnn_benchmark=False,  # batches differ in size too much
    amp=dict(enabled=False, dtype="bfloat16"),  # on CUDA; or float16, with loss scaling
    # faster or smaller steps that compute the same
    compile=dict(enabled=False, backend="inductor"),  # encoder and decoder layers, by torch.compile
    channels_last=False,  # layout of the convolutions in backbone and neck
    recompute_blocks=0,  # so many trained blocks of a ResNet keep no activations
    tf32=None,  # on CUDA, TensorFloat-32 for float32: True, False; None for convolutions alone
    clip_grad=dict(enabled=True, params=dict(max_norm=0.1, norm_type=2)),
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False, fp16_compression=False),
    # in place of ddp, for large models: shard weights, gradients and optimizer over the processes
    fsdp=dict(enabled=False, reshard_after_forward=True),
    # averaged weights, for evaluation; of the steps from `start` on
    ema=dict(enabled=False, decay=0.9999, start=0),
    accumulate=1,  # parts that a batch is cut into, so that it needs the memory of one
    reference_batch_size=None,  # 16: the learning rate is meant for 16 images, and scaled to more
    freeze=[],  # parts that are not trained, by name: ["backbone", "encoder"]
    loggers=["tensorboard"],  # also "wandb", "mlflow", where installed
    # periods count iterations; 0 means never
    log_period=50,
    eval_period=5000,
    checkpointer=dict(period=5000, max_to_keep=5),
    best_checkpoint=dict(enabled=True, metric="bbox/AP", mode="max"),  # model_best.pth
    early_stop=dict(patience=0),  # evaluations without a better best_checkpoint.metric; 0: never
)
