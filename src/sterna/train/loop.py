"""The training loop: one step after another, from dense to pruned to ternary.

Everything that changes is in :class:`~sterna.train.checkpoint.Checkpoint`; everything else follows from the recipe
and the number of the step.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, replace
from typing import Any

import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.utils import gather_object
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sterna.config import bytes_of
from sterna.container import coded_bytes, encode
from sterna.data import BatchDataset, DataSplits, make_loader
from sterna.errors import SternaError
from sterna.preparation import (
    LayerStatistics,
    choose_masks,
    latent_weights,
    layer_signs,
    layer_statistics,
    scale_thresholds,
    scaled_thresholds,
    set_phase,
    ternary_layers,
    update_masks,
)
from sterna.quantizers.ptq import Phase
from sterna.tasks.task import Task
from sterna.train.batch_norm import average_batch_norms, freeze_batch_norms, reestimate_batch_norms
from sterna.train.checkpoint import Checkpoint, random_state, set_random_state
from sterna.train.interruption import interrupts_held
from sterna.train.optimizer import make_optimizer, set_learning_rate
from sterna.train.progress import Display, Snapshot
from sterna.train.recorder import Recorder
from sterna.train.schedule import Schedule, StepPlan
from sterna.train.size_estimate import expected_bytes, float_bytes_of
from sterna.train.size_target import SizeTarget

LOG_INTERVAL = 50

# Rows of the totals, each (loss sum, right answers, images).
_EPOCH, _INTERVAL = 0, 1


class TrainingLoop:
    """Trains a prepared model by a recipe.

    Args:
        network: prepared, on the accelerator's device; trained in place.
        data: to train, validate and test on.
        task: loss and metrics.
        accelerator: made with ``split_batches``, so that the batch size counts all processes.
        recorder: gets the recipe's files.
        baseline: metrics of the uncompressed model; nothing means to measure them at the end of the dense phase.
        log_interval: steps between two lines of ``metrics.jsonl``.
        started: when the run began, by ``time.monotonic``; nothing means now.

    Attributes:
        step: steps done.
        baseline: metrics of the uncompressed model on the test images, once they are known.
        best: validation metrics of the best model kept.
        schedule: of the run.
    """

    def __init__(
        self,
        network: nn.Module,
        data: DataSplits,
        task: Task[Any],
        accelerator: Accelerator,
        recorder: Recorder,
        *,
        baseline: dict[str, float] | None = None,
        log_interval: int = LOG_INTERVAL,
        started: float | None = None,
    ) -> None:
        recipe = recorder.recipe
        self._recipe, self._data, self._recorder = recipe, data, recorder
        self._accelerator, self._task, self._log_interval = accelerator, task, log_interval
        self._network = network
        self._average = _moving_average(network, recipe.train.ema_decay, accelerator.device)
        loader = make_loader(
            data.train,
            recipe.train.batch_size,
            shuffle=True,
            seed=recipe.seed,
            drop_last=True,
            workers=recipe.data.workers,
        )
        self._model, self._optimizer, self._loader = accelerator.prepare(
            network, make_optimizer(network, recipe.optimizer), loader
        )
        if recipe.train.compile:
            network.compile()
        self._float_bytes = float_bytes_of(network, recipe.storage.float_dtype, recipe.storage.int8)

        self.schedule = Schedule(recipe, len(self._loader))
        self.step = 0
        self.baseline = baseline
        self.best: dict[str, float] | None = None
        self._phase = current_phase(network)
        self._size_target = None
        if recipe.ternary is not None and recipe.ternary.target_size is not None:
            self._size_target = SizeTarget(bytes_of(recipe.ternary.target_size))
        self._totals = torch.zeros(2, 3, dtype=torch.float64, device=accelerator.device)
        self._signs = layer_signs(self.result)
        self._seconds_before = 0.0
        self._started = started if started is not None else time.monotonic()

    @property
    def result(self) -> nn.Module:
        """The model that is evaluated and converted: the moving average of the weights, if there is one."""
        return self._average.module if self._average is not None else self._network

    @property
    def seconds(self) -> float:
        """Time spent on the run, by earlier processes too."""
        return self._seconds_before + time.monotonic() - self._started

    # ---- The loop ----------------------------------------------------------------------------------------------------

    def run(self, display: Display) -> None:
        """Train to the end.

        Raises:
            SternaError: the loss is no longer finite, or a file cannot be written.
        """
        with display:
            if self.step == 0:
                self._save_checkpoint()  # so that a run can be resumed from its first step on
            while self.step < self.schedule.total_steps:
                self._train_epoch(display)
                self._finish_epoch(display)

    def rehearse(self, steps: int) -> list[float]:
        """Do steps as the last ones of the run will be, ternary and with all zeros, and return the seconds of each."""
        self.step = max(0, self.schedule.total_steps - 1)
        self._phase = self.schedule.phase(self.step)
        if self._recipe.ternary is not None:
            if self._size_target is not None:
                self.schedule.final_sparsity = self._weigh(self._size_target)
            update_masks(self._network, self.schedule.final_sparsity)
            set_phase(self._network, self._phase)
        seconds: list[float] = []
        self._model.train()
        if self._recipe.train.freeze_batch_norm:
            freeze_batch_norms(self._network)
        while len(seconds) < steps:
            started = time.perf_counter()
            for batch in self._loader:
                self._train_step(batch)
                self.step -= 1
                self._check_finite(float(self._totals[_EPOCH, 0]))
                seconds.append(time.perf_counter() - started)
                if len(seconds) == steps:
                    break
                started = time.perf_counter()
        self._meet_size()
        return seconds

    def _train_epoch(self, display: Display) -> None:
        epoch, steps_done = divmod(self.step, self.schedule.steps_per_epoch)
        self._loader.set_epoch(epoch)
        self._task.begin_epoch(epoch)
        self._model.train()
        if self._recipe.train.freeze_batch_norm:
            freeze_batch_norms(self._network)
        for batch in skip_first_batches(self._loader, steps_done) if steps_done else self._loader:
            with interrupts_held():
                self._train_step(batch)
            display.advance(self.step)
            if self.step % self._log_interval == 0:
                self._log_interval_metrics(display)
            ends_epoch = self.step % self.schedule.steps_per_epoch == 0
            if self.step % self._recipe.train.checkpoint_steps == 0 and not ends_epoch:
                self._save_checkpoint()

    def _train_step(self, batch: Any) -> None:
        rates = self._recipe.optimizer
        plan = self.schedule.at(self.step)
        self._apply(plan)
        set_learning_rate(self._optimizer, rates.learning_rate * plan.learning_rate_factor)

        result = self._task.step(self._model, batch)
        self._accelerator.backward(result.loss)
        if rates.gradient_clip > 0.0:
            self._accelerator.clip_grad_norm_(self._model.parameters(), rates.gradient_clip)
        self._optimizer.step()
        self._optimizer.zero_grad()
        if self._average is not None:
            self._average.update_parameters(self._network)
        self.step += 1

        with torch.no_grad():
            # Kept on the device: reading a number at each step would stop the processor.
            loss = result.loss.detach().double()
            right = result.right.double() if result.right is not None else torch.full_like(loss, math.nan)
            self._totals += torch.stack((loss * result.images, right, torch.full_like(loss, result.images)))

    def _apply(self, plan: StepPlan) -> None:
        """Bring masks and phase to what this step needs."""
        if self.baseline is None and self.step == self.schedule.dense_steps:
            average_batch_norms(self.result, self._accelerator)
            self.baseline = self._evaluate(self._data.test)
        if plan.weighs and self._size_target is not None:
            self.schedule.final_sparsity = self._weigh(self._size_target)
        if plan.updates_masks:
            update_masks(self._network, self.schedule.sparsity(self.step))
        if plan.phase != self._phase:
            set_phase(self._network, plan.phase)
            self._phase = plan.phase
            if self._average is not None:
                # Weights of two phases do not mix; loading also tells the copy which phase it is in.
                self._average.module.load_state_dict(self._network.state_dict())

    def _meet_size(self) -> None:
        """Move the frozen thresholds a little, so that the file has the size that the recipe asks for.

        Weights have crossed them since they were chosen. All are moved by one factor, because choosing the masks anew
        would change many trits that no step has trained with.
        """
        if self._size_target is None:
            return
        model, coder = self.result, self._recipe.storage.coder

        def file_bytes(factor: float) -> int:
            with scaled_thresholds(model, factor):
                return len(encode(self._recorder.convert(model, {}, "test", finished=False), coder=coder))

        factor = self._size_target.find_factor(file_bytes)
        for network in {self._network, model}:
            scale_thresholds(network, factor)

    @torch.no_grad()
    def _weigh(self, target: SizeTarget) -> float:
        """The fraction of zeros for the size of file that the recipe asks for; equal on every process."""
        network, coder = self._network, self._recipe.storage.coder
        model = self._recorder.convert(network, {}, "test", finished=False)
        other_bytes = len(encode(model, coder=coder)) - sum(
            coded_bytes(tensor.trits, coder) for tensor in model.ternary().values()
        )

        def trit_bytes(sparsity: float) -> int:
            weights, masks = latent_weights(network), choose_masks(network, sparsity)
            return sum(
                coded_bytes((weights[name].sign() * mask).to(torch.int8).cpu().numpy(), coder)
                for name, mask in masks.items()
            )

        return target.solve(self.schedule.final_sparsity, trit_bytes, other_bytes)

    # ---- What is recorded --------------------------------------------------------------------------------------------

    def _log_interval_metrics(self, display: Display) -> None:
        totals = self._read_totals()
        loss, _ = _means(totals[_INTERVAL])
        self._check_finite(loss)
        self._totals[_INTERVAL].zero_()
        if not self._accelerator.is_main_process:
            return
        snapshot = self._snapshot(totals, layer_statistics(self.result))
        self._recorder.log(
            {
                "step": self.step,
                "phase": self._phase,
                "learning_rate": self._learning_rate(),
                "loss": loss,
                "sparsity": snapshot.sparsity,
                "cosine": snapshot.cosine,
            }
        )
        display.show(snapshot)

    def _finish_epoch(self, display: Display) -> None:
        totals = self._read_totals()
        loss, train_top1 = _means(totals[_EPOCH])
        self._check_finite(loss)
        for model in {self._network, self.result}:
            average_batch_norms(model, self._accelerator)
        statistics = layer_statistics(self.result, self._signs)
        snapshot = self._snapshot(totals, statistics)
        is_last = self.step == self.schedule.total_steps
        validation = None
        if is_last or snapshot.epoch % self._recipe.train.validation_interval == 0:
            validation = self._evaluate(self._data.validation)
            value = validation[self._task.metric]
            snapshot = replace(snapshot, validation=(self._task.metric_label, value))
        self._recorder.log(
            {
                "epoch": snapshot.epoch,
                "step": self.step,
                "phase": self._phase,
                "learning_rate": self._learning_rate(),
                "loss": loss,
                "train_top1": train_top1,
                "validation": validation,
                "sparsity": snapshot.sparsity,
                "cosine": snapshot.cosine,
                "expected_bytes": snapshot.expected_bytes,
                "seconds": round(self.seconds, 3),
                "layers": [asdict(layer) for layer in statistics],
            }
        )
        display.end_epoch(snapshot)
        if validation is not None:
            self.keep_if_best(validation)
        self._totals[_EPOCH].zero_()
        self._signs = layer_signs(self.result)
        self._save_checkpoint()

    def keep_if_best(self, validation: dict[str, float]) -> None:
        """Keep the present model as the best one if it is ternary, at its final sparsity and no worse than another.

        Where no images are held out, validation reads the test images: choosing by them would flatter the result, so
        that the final model counts as the best one.
        """
        if not self.schedule.is_settled(self.step):
            return
        if self._data.validation is self._data.test and self.step < self.schedule.total_steps:
            return
        metric = self._task.metric
        if self._data.validation is self._data.test or self.best is None or validation[metric] >= self.best[metric]:
            self._recorder.save_best(self.result, validation)
            self.best = validation

    def finish(self) -> dict[str, float]:
        """Take off what training wrapped around the model, measure batch norms anew, and validate for the last time.

        Returns:
            The validation metrics of the final model; none where validation would read the test images.
        """
        self._accelerator.unwrap_model(self._model, keep_fp32_wrapper=False)
        self._meet_size()
        # An epoch of augmentation that no training step has seen.
        self._loader.set_epoch(self._recipe.train.epochs)
        if not self._recipe.train.freeze_batch_norm:
            inputs = (self._task.inputs(batch) for batch in self._loader)
            reestimate_batch_norms(self.result, inputs, self._recipe.train.batch_norm_batches)
        average_batch_norms(self.result, self._accelerator)
        validation = {} if self._data.validation is self._data.test else self._evaluate(self._data.validation)
        self.keep_if_best(validation)
        return validation

    def _evaluate(self, dataset: BatchDataset[Any]) -> dict[str, float]:
        return self._task.evaluate(
            self.result, dataset, workers=self._recipe.data.workers, accelerator=self._accelerator
        )

    def _read_totals(self) -> list[list[float]]:
        """Totals over all processes."""
        totals: list[list[float]] = self._accelerator.reduce(self._totals, reduction="sum").tolist()
        return totals

    def _snapshot(self, totals: list[list[float]], statistics: tuple[LayerStatistics, ...]) -> Snapshot:
        loss, train_top1 = _means(totals[_EPOCH])
        weights = sum(layer.weights for layer in statistics) or 1
        return Snapshot(
            step=self.step,
            epoch=(self.step - 1) // self.schedule.steps_per_epoch + 1,
            phase=self._phase,
            loss=loss,
            train_top1=train_top1,
            sparsity=sum(layer.sparsity * layer.weights for layer in statistics) / weights,
            cosine=sum(layer.cosine for layer in statistics) / (len(statistics) or 1),
            expected_bytes=expected_bytes(statistics, self._float_bytes),
        )

    def _learning_rate(self) -> float:
        """Of the step that was done last."""
        factor = self.schedule.at(self.step - 1).learning_rate_factor
        return self._recipe.optimizer.learning_rate * factor

    def _check_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise SternaError(
                f"training diverged: the loss is {loss} before step {self.step} of {self.schedule.total_steps}; "
                f"lower optimizer.learning_rate (={self._recipe.optimizer.learning_rate:g}) or set "
                "optimizer.gradient_clip"
            )

    # ---- Checkpoints -------------------------------------------------------------------------------------------------

    def _save_checkpoint(self) -> None:
        random_states = gather_object([random_state()])
        totals = self._accelerator.reduce(self._totals, reduction="sum")
        self._check_finite(float(totals[_EPOCH, 0]))  # nothing sound is replaced by a model that has diverged
        if not self._accelerator.is_main_process:
            return
        self._recorder.save_checkpoint(
            Checkpoint(
                recipe=self._recipe.model_dump(mode="json"),
                source_sha256=self._recorder.source_sha256,
                step=self.step,
                model=dict(self._network.state_dict()),
                optimizer=self._optimizer.state_dict(),
                average=dict(self._average.state_dict()) if self._average is not None else None,
                random_states=random_states,
                totals=totals,
                signs=self._signs,
                baseline=self.baseline,
                best=self.best,
                final_sparsity=self.schedule.final_sparsity,
                log_bytes=self._recorder.synchronize_log(),
                seconds=self.seconds,
            )
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint of the same recipe."""
        device = self._accelerator.device
        self._network.load_state_dict(checkpoint.model)
        self._optimizer.load_state_dict(checkpoint.optimizer)
        if self._average is not None and checkpoint.average is not None:
            self._average.load_state_dict(checkpoint.average)
        self._phase = current_phase(self._network)
        self.schedule.final_sparsity = checkpoint.final_sparsity
        self.step, self.baseline, self.best = checkpoint.step, checkpoint.baseline, checkpoint.best
        self._totals = checkpoint.totals.to(device)
        if not self._accelerator.is_main_process:
            self._totals.zero_()  # the sum over all processes must count them once
        self._signs = {name: signs.to(device) for name, signs in checkpoint.signs.items()}
        self._seconds_before = checkpoint.seconds
        set_random_state(checkpoint.random_states[self._accelerator.process_index])


def _moving_average(network: nn.Module, decay: float, device: torch.device) -> AveragedModel | None:
    """A copy of the network whose weights follow slowly and whose masks and statistics follow at once."""
    if decay == 0.0:
        return None
    update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(network, device, multi_avg_fn=update).eval()


def current_phase(network: nn.Module) -> Phase:
    """The phase of a prepared network; one that is not prepared is dense."""
    return next((layer.current_phase for layer in ternary_layers(network).values()), "dense")


def _means(totals: list[float]) -> tuple[float, float | None]:
    """Loss, and accuracy in percent where the task has one."""
    loss, right, images = totals
    if not images:
        return 0.0, 0.0
    return loss / images, 100.0 * right / images if math.isfinite(right) else None
