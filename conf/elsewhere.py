"""What the settings are called in nanoGPT, Hugging Face's transformers and Lightning."""

ELSEWHERE = {
    "train.steps": "steps max_steps num_steps total_steps max_iters iterations",
    "train.steps, as epochs are not counted": "epochs n_epochs num_epochs max_epochs "
    "num_train_epochs",
    "train.micro_batch_size": "batch_size micro_batch device_batch_size train_batch_size "
    "per_device_train_batch_size",
    "train.total_batch_tokens": "gradient_accumulation_steps grad_accum_steps grad_accum "
    "accumulate_grad_batches accumulation_steps total_batch_size global_batch_size",
    "train.context": "block_size seq_len seq_length sequence_length max_seq_len max_seq_length "
    "max_length",
    "train.learning_rate": "lr learning_rate max_lr peak_lr base_lr",
    "train.schedule": "scheduler lr_scheduler lr_scheduler_type lr_schedule decay_lr",
    "train.warmup_steps": "warmup warmup_iters warmup_ratio num_warmup_steps",
    "train.min_lr_ratio": "min_lr lr_min eta_min",
    "train.cooldown_fraction": "cooldown cooldown_frac cooldown_iters decay_fraction "
    "num_decay_steps",
    "train.optimizer": "optim optimizer optimizer_name",
    "train.betas": "beta1 beta2 adam_beta1 adam_beta2",
    "train.eps": "epsilon adam_eps adam_epsilon",
    "train.weight_decay": "wd weight_decay",
    "train.clip_grad_norm": "clip grad_clip grad_clip_norm gradient_clipping gradient_clip_val "
    "max_grad_norm",
    "train.label_smoothing": "label_smoothing label_smoothing_factor",
    "train.autocast": "amp bf16 fp16 dtype torch_dtype precision mixed_precision",
    "train.matmul_precision": "tf32 float32_matmul_precision",
    "train.compile": "compile torch_compile use_compile",
    "train.checkpoint_every": "save_steps save_every save_interval checkpoint_interval",
    "checkpoint": "save_strategy always_save_checkpoint",
    "model.n_layer": "n_layers num_layers num_hidden_layers layers depth",
    "model.n_head": "n_heads num_heads num_attention_heads heads",
    "model.n_embd": "n_embed d_model hidden_size hidden_dim embed_dim dim width",
    "model.context_length": "n_ctx n_positions max_position_embeddings",
    "model.dropout": "dropout resid_pdrop embd_pdrop attn_pdrop attn_dropout resid_dropout",
    "model.positions=rotary": "rope rotary use_rope",
    "model.positions": "position_embedding_type pos_emb",
    "model.norm=rms": "rmsnorm rms_norm use_rmsnorm",
    "model.activation=swiglu": "swiglu use_swiglu",
    "train.optimizer=muon": "muon use_muon",
    "model.qk_norm": "qk_norm qk_layernorm use_qk_norm",
    "model.activation": "activation activation_function act_fn hidden_act",
    "model.bias": "bias use_bias attention_bias mlp_bias",
    "model.tie_word_embeddings": "tie_word_embeddings tie_weights tie_embeddings weight_tying",
    "model.logit_softcap": "logit_cap softcap final_logit_softcapping",
    "model.attention": "flash use_flash flash_attention flash_attn attn_implementation",
    "model.norm": "norm_type",
    "model": "model_name model_type model_name_or_path",
    "evaluation.every": "eval_steps eval_every eval_interval val_check_interval",
    "evaluation.tokens": "eval_iters eval_batches limit_val_batches",
    "data.path": "data_path data_dir train_file",
    "data.dataset": "dataset dataset_name",
    "logger=tensorboard": "report_to tensorboard",
    "logger=wandb": "wandb use_wandb wandb_log",
    "seed": "seeds random_seed data_seed",
    "device": "devices accelerator gpu gpus cuda",
    "experiment": "run_name exp_name experiment_name project",
    "output_dir": "out_dir default_root_dir",
}
OURS = {word: ours for ours, words in ELSEWHERE.items() for word in words.split()}


def called_elsewhere(name: str) -> str | None:
    """The setting that other projects call by the last part of this dotted name, if any."""
    return OURS.get(name.rpartition(".")[2].lower())
