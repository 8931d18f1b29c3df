"""From the contract to a fine-tuned model: `phi3v-train`.

Nothing is imported here, so that `phi3v.trainer.config` stays free of torch.
"""
