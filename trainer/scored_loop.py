"""The training loop with scores in it: every so many steps, on every process; the best weights are kept."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from transformers import TrainerControl, TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from phi3v.schema import UserError
from phi3v.trainer.config import TrainConfig
from phi3v.trainer.events import Scored
from phi3v.trainer.loop import StepTrainer
from phi3v.trainer.scorer import Scorer

LOSS, LAST = "loss", "none"  # what --metric_for_best may name beside a score


class ScoredTrainer(StepTrainer):
    """Trains, and scores between steps.

    Args:
        scorer: takes the scores; None where there is nothing to score on.
        patience: evaluations without a better score after which the run ends; None for no end.
        options: the loop's own.
    """

    def __init__(self, *, scorer: Scorer | None, patience: int | None = None, **options: Any) -> None:
        super().__init__(eval_dataset=scorer.questions if scorer else None, **options)
        self._scorer = scorer
        self._patience = patience

    def evaluate(self, *_args: Any, **_kwargs: Any) -> dict[str, float]:
        """Score the model as it stands, and return the scores as the Trainer logs and compares them."""
        assert self._scorer is not None, "the Trainer evaluates only where it was told to"
        start = time.perf_counter()
        *_, scored = self._scorer.score(self.model, f"step-{self.state.global_step}", resumable=False)
        assert isinstance(scored, Scored)
        seconds = time.perf_counter() - start
        figures = {f"eval_{score.metric}": score.value for score in scored.scores}
        if scored.loss is not None:
            figures["eval_loss"] = scored.loss
        figures |= {"eval_runtime": round(seconds, 2), "eval_samples_per_second": round(scored.total / seconds, 3)}
        self.log(figures)
        self.leave_out(seconds)
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, figures)
        return figures

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Save a checkpoint of the best weights so far, and end the run where no better ones come."""
        best: bool = super()._determine_best_metric(metrics, trial) or self._ties_with_less_loss(metrics)
        if best:
            self.state.best_global_step = self.state.global_step  # also without checkpoints every so many steps
            self.control.should_save = True
        elif self._patience and self._since_best() >= self._patience:
            self.control.should_training_stop = True
        return best

    def _ties_with_less_loss(self, metrics: dict[str, float]) -> bool:
        """Return whether the score is the best one's, at a lower loss: a small set of samples has few scores."""
        name = self.args.metric_for_best_model
        if name is None or metrics[name] != self.state.best_metric:
            return False
        log = reversed(self.state.log_history[:-1])  # the last entry is this evaluation's
        before = next(entry for entry in log if entry["step"] == self.state.best_global_step and "eval_loss" in entry)
        return bool(metrics["eval_loss"] < before["eval_loss"])

    def _since_best(self) -> int:
        """Return how many evaluations came after the best one; counted in the log, which a resumed run has too."""
        best = self.state.best_global_step or 0
        return sum("eval_runtime" in entry and entry["step"] > best for entry in self.state.log_history)

    def load_best(self) -> int | None:
        """Load the weights with the best score; return their step, or None if no best one was looked for."""
        step: int | None = self.state.best_global_step
        if step is not None and step != self.state.global_step:
            self.state.best_model_checkpoint = str(Path(self.args.output_dir) / f"checkpoint-{step}")
            self._load_best_model()
        return step


def evaluating(arguments: TrainingArguments, config: TrainConfig, scorer: Scorer) -> TrainingArguments:
    """Set when the Trainer scores, and by what it knows the best.

    Raises:
        UserError: no such score is taken.
    """
    if config.eval_steps is None:
        return arguments
    arguments.eval_strategy = IntervalStrategy.STEPS
    arguments.eval_steps = config.eval_steps
    name = config.metric_for_best or scorer.metrics.headline
    if name == LAST:
        return arguments
    taken = scorer.metrics.all_names
    if name != LOSS and name not in taken:
        fix = f"give one of {', '.join([*taken, LOSS, LAST])}"
        raise UserError(f"--metric_for_best {name} is not scored here", fix=fix)
    arguments.metric_for_best_model = f"eval_{name}"
    arguments.greater_is_better = name != LOSS
    return arguments
