"""The one LightningModule: any network, any loss."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core.errors import UserError
from emotion_lab.data.batch_augment import BatchAugment
from emotion_lab.data.torch_dataset import Batch
from emotion_lab.models.base import EmotionNet
from emotion_lab.models.finetune import (
    apply_freeze,
    frozen_batchnorm_eval,
    param_groups,
    unfreeze_all,
)
from emotion_lab.training import strategy
from emotion_lab.training.distill import Distillation
from emotion_lab.training.metrics import EpochMetrics
from emotion_lab.training.mixup import MixupCutmix
from emotion_lab.training.optim import align, build_optimizer, build_schedule, fuses, plateau_value

#: Weight of each auxiliary head's loss (Szegedy et al. 2015).
AUX_WEIGHT = 0.3


class EmotionModule(L.LightningModule):
    """Train a network: loss, optimiser, schedule, metrics and what a checkpoint must hold.

    Args:
        net: The network, normalisation included.
        criterion: (logits (B, K), target (B,) or (B, K)) -> scalar.
        cfg: The whole resolved config as plain dicts.
        card: What the checkpoint says of itself (builtins only).
    """

    def __init__(
        self, net: EmotionNet, criterion: nn.Module, cfg: dict[str, Any], card: dict[str, Any]
    ) -> None:
        super().__init__()
        num_classes = len(card["classes"])
        self.model = net
        self.criterion = criterion
        self.cfg, self.card = cfg, card
        self.mix = MixupCutmix(cfg["mix"], num_classes)
        #: Set for ``augment=device``.
        self.augment: BatchAugment | None = None
        #: Set for ``distill.teacher``.
        self.distillation: Distillation | None = None
        self.channels_last = False
        self._schedule: Any = None
        self._metrics = nn.ModuleDict()
        for stage in ("train", "val"):
            self._metrics[f"{stage}_tally"] = EpochMetrics(num_classes)
        # The step at which the loss first was not finite; -1 while all is well. It stays on the
        # device so that looking at it need not wait for the accelerator. No buffer: weight
        # averaging would average it.
        self._bad_step: Tensor | None = None

    # -- fine-tuning -------------------------------------------------------------------------

    def set_frozen(self, epoch: int) -> None:
        """Freeze and unfreeze as ``model.freeze`` and friends say for ``epoch`` (from 0)."""
        model = self.cfg["model"]
        at = model["unfreeze_at_epoch"]
        if at is not None and epoch >= at:
            unfreeze_all(self.model)
        else:
            apply_freeze(self.model, model["freeze"], model["unfreeze_last"])

    def on_train_epoch_start(self) -> None:
        """Apply the freezing policy of this epoch."""
        self.set_frozen(self.current_epoch)
        self._ready_to_train()

    def on_validation_end(self) -> None:
        """Lightning puts everything back into train mode after validation; frozen BN stays out."""
        self._ready_to_train()

    def _ready_to_train(self) -> None:
        self.model.train()
        frozen_batchnorm_eval(self.model)

    def configure_model(self) -> None:
        """Split the network among the devices (``trainer=fsdp``)."""
        if self._device_mesh is not None:
            strategy.shard(self.model, self._device_mesh)

    # -- steps -------------------------------------------------------------------------------

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed this step from (seed, epoch, batch, process): dropout and mixing can be replayed."""
        key = (self.cfg["seed"], self.current_epoch, batch_idx, self.global_rank)
        value = 0
        for part in key:
            value = (value * 1_000_003 + part + 1) % (2**63)
        torch.manual_seed(value)
        if batch_idx == 0 or not self.model.training:
            self._ready_to_train()

    def _images(self, images: Tensor) -> Tensor:
        if self.channels_last:
            return images.contiguous(memory_format=torch.channels_last)
        return images

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch, auxiliary heads included."""
        images = batch.images
        if self.augment is not None:
            images = self.augment(images, self.current_epoch / (self.trainer.max_epochs or 1))
        images, target = self.mix(images, batch.labels if batch.soft is None else batch.soft)
        output = self.model(self._images(images))
        logits, auxiliary = output if isinstance(output, tuple) else (output, [])
        loss = self.criterion(logits, target)
        if self.distillation is not None:
            loss = self.distillation(loss, logits, images)
        for extra in auxiliary:
            loss = loss + AUX_WEIGHT * self.criterion(extra, target)
        self._watch(loss)
        # With mixing, accuracy is counted against the first of the two labels.
        self._metrics["train_tally"].update(loss.detach(), logits.detach(), batch.labels)
        self.log("train/loss_step", loss, on_step=True, on_epoch=False)
        # Lightning would bring a plain number to the accelerator, and wait for that.
        rate = torch.tensor(self.optimizers().param_groups[0]["lr"])
        self.log("lr", rate, on_step=True, on_epoch=False)
        return loss

    def _watch(self, loss: Tensor) -> None:
        if self._bad_step is None:
            self._bad_step = torch.tensor(-1, device=loss.device)
        bad = ~torch.isfinite(loss.detach()) & (self._bad_step < 0)
        self._bad_step = torch.where(bad, self.global_step, self._bad_step)
        if loss.device.type == "cpu" or self.global_step % self.cfg["trainer"]["log_every_n_steps"] == 0:
            self.check_finite()

    def check_finite(self) -> None:
        """Stop when the loss has become NaN or infinite.

        Raises:
            UserError: Naming the step.
        """
        step = -1 if self._bad_step is None else int(self._bad_step)
        if step >= 0:
            raise UserError(
                f"the loss became NaN or infinite at step {step} (epoch {self.current_epoch}); "
                f"stopped, the last good checkpoint is kept. Try a smaller optim.lr "
                f"(now {self.cfg['optim']['lr']:g}) or trainer.gradient_clip_val=1."
            )

    def check_scores(self, scores: dict[str, float]) -> None:
        """Stop when the weights after the last step are broken, before they are saved.

        Raises:
            UserError: Naming the score.
        """
        for name, value in scores.items():
            if not math.isfinite(value):
                raise UserError(
                    f"{name} became {value} after epoch {self.current_epoch}; stopped, the last "
                    f"good checkpoint is kept. Try a smaller optim.lr (now "
                    f"{self.cfg['optim']['lr']:g}) or trainer.gradient_clip_val=1."
                )

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Score a batch; the loss is the training loss on hard labels.

        Returns:
            The logits (B, K), for callbacks that look on.
        """
        logits = self.model(self._images(batch.images))
        self._metrics["val_tally"].update(
            self.criterion(logits, batch.labels), logits, batch.labels
        )
        return logits

    def on_validation_epoch_start(self) -> None:
        """Do not score weights that are already broken; score what a checkpoint will hold."""
        if not self.trainer.sanity_checking:
            self.check_finite()
        if self.trainer.world_size > 1:
            # Every process counts running statistics of its own images; those of the first are
            # saved.
            for buffer in self.buffers():
                torch.distributed.broadcast(buffer, 0)

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics; checkpoints and early stopping watch these."""
        self.log_dict(self.collect("val"))

    def collect(self, stage: str) -> dict[str, float]:
        """Return and reset a stage's metrics: ``<stage>/loss``, ``<stage>/accuracy``, ..."""
        tally = self._metrics[f"{stage}_tally"]
        values = {f"{stage}/{name}": float(value) for name, value in tally.compute().items()}
        tally.reset()
        return values

    def running(self) -> dict[str, float]:
        """Return loss and accuracy of the epoch so far in this process, for the progress bar."""
        tally = self._metrics["train_tally"]
        if not tally.update_called:
            return {}
        found = tally.means()
        return {"loss": float(found["loss"]), "acc": float(found["accuracy"])}

    # -- optimisation ------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        """Build optimiser and schedule; step counts come from the trainer."""
        optim, model = self.cfg["optim"], self.cfg["model"]
        self.set_frozen(0)
        groups = param_groups(
            self.model,
            optim["lr"],
            optim["weight_decay"],
            model["layer_decay"],
            optim["decay_norm_and_bias"],
        )
        optimizer = build_optimizer(optim, groups, self._fuses())
        epochs = self.trainer.max_epochs
        total = self.trainer.estimated_stepping_batches
        steps = max(1, round(total / epochs))
        self._schedule = build_schedule(self.cfg["schedule"], optimizer, steps, epochs)
        if self._schedule is None or isinstance(self._schedule, ReduceLROnPlateau):
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self._schedule, "interval": "step"},
        }

    def _fuses(self) -> bool:
        device = self.trainer.strategy.root_device
        precision = str(self.trainer.precision)
        return fuses(self.cfg, device, precision, self._device_mesh is not None)

    def step_plateau(self, metrics: dict[str, float]) -> None:
        """Step ``schedule=plateau`` at the end of an epoch.

        Done here and not by Lightning, which steps it after the checkpoint is written and so
        forgets it on resume.
        """
        if isinstance(self._schedule, ReduceLROnPlateau):
            self._schedule.step(plateau_value(self.cfg["schedule"], metrics))

    # -- checkpoint --------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the card, the half-done epoch's metrics and the plateau schedule's state."""
        checkpoint[ckpt.CARD] = {**self.card, "epoch": self.current_epoch}
        if self._device_mesh is None:
            self._number_states(checkpoint.get("optimizer_states", []))
        tally = self._metrics["train_tally"]
        checkpoint["half_epoch"] = {
            # Of all processes; each state is a sum.
            "state": {
                key: self.trainer.strategy.reduce(value.clone(), reduce_op="sum")
                for key, value in tally.metric_state.items()
            },
            "updates": int(tally._update_count),
        }
        if isinstance(self._schedule, ReduceLROnPlateau):
            state = dict(self._schedule.state_dict())
            checkpoint["plateau"] = {k: _builtin(v) for k, v in state.items()}

    def _number_states(self, states: list[dict[str, Any]]) -> None:
        """Number an optimiser's states as the network's parameters, in place.

        An optimiser numbers them by its groups, and does not mind another numbering; ``fsdp`` knows
        this one only, and would take one parameter's state for another's.
        """
        numbers = {id(parameter): n for n, parameter in enumerate(self.parameters())}
        for state, optimizer in zip(states, self.trainer.optimizers, strict=False):
            own = [numbers[id(p)] for group in optimizer.param_groups for p in group["params"]]
            state["state"] = {own[old]: value for old, value in state["state"].items()}
            state["param_groups"] = [
                {**group, "params": [own[old] for old in group["params"]]}
                for group in state["param_groups"]
            ]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what :meth:`on_save_checkpoint` added."""
        self._restored = checkpoint.get("half_epoch", {}), checkpoint.get("plateau")
        for state in checkpoint.get("optimizer_states", []):
            for group in state["param_groups"]:
                # As it suits this run: another device may have written the checkpoint.
                group["fused"] = self._fuses() or None

    def on_train_start(self) -> None:
        """Put restored metrics and schedule in place, once Lightning has built everything."""
        half, plateau = getattr(self, "_restored", ({}, None))
        tally = self._metrics["train_tally"]
        older = half.get("train_scores.accuracy", {})
        if older.get("updates") and self.global_rank == 0:
            print("resumed from an older version: this epoch's train scores count from here on")
        # What all had counted goes on in the first process.
        if half.get("updates") and self.global_rank == 0:
            for key, value in half["state"].items():
                setattr(tally, key, value.to(self.device))
            tally._update_count = half["updates"]
        if plateau is not None and isinstance(self._schedule, ReduceLROnPlateau):
            self._schedule.load_state_dict(plateau)
        self._restored = {}, None
        for optimizer in self.trainer.optimizers:
            if self._fuses():
                align(optimizer)
            else:  # fsdp reads the optimiser before on_load_checkpoint
                for group in optimizer.param_groups:
                    group["fused"] = None
        self.set_frozen(self.current_epoch)
        self._ready_to_train()


def _builtin(value: Any) -> Any:
    return value.item() if hasattr(value, "item") and not isinstance(value, Tensor) else value
