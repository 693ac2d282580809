"""LightningModule for every network and loss."""

from __future__ import annotations

import math
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from emotion_lab.core import checkpoint as ckpt
from emotion_lab.core.errors import UserError, unknown
from emotion_lab.data.batch_augment import BatchAugment
from emotion_lab.data.torch_dataset import Batch
from emotion_lab.losses import total_weight
from emotion_lab.models.base import EmotionNet
from emotion_lab.models.finetune import freeze_at, param_groups, train_mode
from emotion_lab.training.distill import Distillation
from emotion_lab.training.metrics import TrainMetrics, ValMetrics
from emotion_lab.training.mixup import MixupCutmix
from emotion_lab.training.optim import (
    build_optimizer,
    build_schedule,
    match_memory_format,
    supports_fused,
)
from emotion_lab.training.quantities_head import TrainedQuantitiesHead
from emotion_lab.training.votes_head import VotesHead

#: Weight of each auxiliary head's loss (Szegedy et al. 2015, arXiv:1409.4842).
AUX_WEIGHT = 0.3


class EmotionModule(L.LightningModule):
    """Trains a network: loss, optimiser, schedule, metrics and the contents of checkpoints.

    Args:
        net: The network, normalisation included.
        criterion: (logits (B, K), target (B,) or (B, K)) -> scalar.
        cfg: The whole resolved config as plain dicts.
        card: The metadata of checkpoints (builtins only).
    """

    def __init__(
        self, net: EmotionNet, criterion: nn.Module, cfg: dict[str, Any], card: dict[str, Any]
    ) -> None:
        super().__init__()
        num_classes = len(card["classes"])
        self.model, self.criterion = net, criterion
        self.cfg, self.card = cfg, card
        self.mix = MixupCutmix(cfg["mix"], num_classes)
        self.augment: BatchAugment | None = None  # set for augment=device
        self.distillation: Distillation | None = None  # set for distill.teacher
        self.votes_head: VotesHead | None = None  # set for votes_head.weight
        self.quantities_head: TrainedQuantitiesHead | None = None  # set for its weight
        self.channels_last = False
        self.train_metrics = TrainMetrics(num_classes)
        self.val_metrics = ValMetrics(num_classes)
        self._schedule: Any = None
        # First step with a loss that is not finite, or -1. It stays on the device, because reading
        # it waits for the accelerator. It is no buffer: weight averaging would average it.
        self._non_finite_step: Tensor | None = None
        # State of on_load_checkpoint, applied in on_train_start.
        self._restored_metrics: dict[str, Any] = {}
        self._restored_plateau: dict[str, Any] | None = None

    @property
    def _heads(self) -> dict[str, nn.Module]:
        """Name -> auxiliary head that adds its loss to that of the labels."""
        heads = {"votes_head": self.votes_head, "quantities_head": self.quantities_head}
        return {name: head for name, head in heads.items() if head is not None}

    def set_frozen(self, epoch: int) -> None:
        """Freeze the stages that ``epoch`` (counted from 0) does not train."""
        freeze_at(self.model, self.cfg["model"], epoch)

    def on_train_epoch_start(self) -> None:
        """Apply the freezing policy of this epoch."""
        self.set_frozen(self.current_epoch)
        train_mode(self.model)

    def on_validation_end(self) -> None:
        """Keep frozen BatchNorm in eval mode: Lightning sets train mode after validation."""
        train_mode(self.model)

    def configure_model(self) -> None:
        """Shard the network across devices (``trainer=fsdp``)."""
        if self._device_mesh is not None:
            from torch.distributed.fsdp import fully_shard

            fully_shard(self.model, mesh=self._device_mesh["data_parallel"])

    def on_fit_start(self) -> None:
        """Compute the targets of ``distill.precompute``, on the device of the network."""
        if self.distillation is not None and self.cfg["distill"]["precompute"]:
            data = self.trainer.datamodule  # type: ignore[attr-defined] # set at run time
            self.distillation.precompute(data.fit_batches("train"), self.device)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed the step from (seed, epoch, batch, rank): a resumed run repeats the random draws."""
        value = 0
        for part in (self.cfg["seed"], self.current_epoch, batch_idx, self.global_rank):
            value = (value * 1_000_003 + part + 1) % (2**63)
        torch.manual_seed(value)
        if batch_idx == 0 or not self.model.training:
            train_mode(self.model)

    @property
    def memory_format(self) -> torch.memory_format:
        """Memory format of the images."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def _output(self, images: Tensor, are_features: bool) -> Any:
        """Return the output of the network for images, or for their cached features."""
        if are_features:
            return self.model.backbone.head(images)
        return self.model(images.contiguous(memory_format=self.memory_format))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch, auxiliary heads included."""
        images = batch.images
        if self.augment is not None and not batch.are_features:
            images = self.augment(images, self.current_epoch / (self.trainer.max_epochs or 1))
        images, target = self.mix(images, batch.labels if batch.soft is None else batch.soft)
        output = self._output(images, batch.are_features)
        logits, auxiliary = output if isinstance(output, tuple) else (output, [])
        loss = self.criterion(logits, target)
        if self.distillation is not None:
            loss = self.distillation(loss, logits, images, batch.positions)
        for head in self._heads.values():
            loss = head(loss, batch.positions)
        for extra in auxiliary:
            loss = loss + AUX_WEIGHT * self.criterion(extra, target)
        self._track_non_finite(loss)
        # With mixing, accuracy is computed against the first of the two labels.
        self.train_metrics.update(
            logits.detach(),
            batch.labels,
            target,
            loss.detach(),
            total_weight(self.criterion, target),
        )
        self.log("train/criterion_step", loss, on_step=True, on_epoch=False)
        # A tensor on the CPU: Lightning copies a plain number to the accelerator and waits.
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        rate = torch.tensor(optimizer.param_groups[0]["lr"])
        self.log("lr", rate, on_step=True, on_epoch=False)
        return loss

    def _track_non_finite(self, loss: Tensor) -> None:
        if self._non_finite_step is None:
            self._non_finite_step = torch.tensor(-1, device=loss.device)
        is_first = ~torch.isfinite(loss.detach()) & (self._non_finite_step < 0)
        self._non_finite_step = torch.where(is_first, self.global_step, self._non_finite_step)
        interval = self.cfg["trainer"]["log_every_n_steps"]
        if loss.device.type == "cpu" or self.global_step % interval == 0:
            self.check_loss()

    def check_loss(self) -> None:
        """Raise if the loss has become NaN or infinite."""
        step = -1 if self._non_finite_step is None else int(self._non_finite_step)
        if step >= 0:
            raise self._diverged(
                f"the loss became NaN or infinite at step {step} (epoch {self.current_epoch + 1})"
            )

    def check_scores(self, scores: dict[str, float]) -> None:
        """Raise if a score is not finite: the last step of the epoch broke the weights."""
        for name, value in scores.items():
            if not math.isfinite(value):
                raise self._diverged(f"{name} became {value} after epoch {self.current_epoch + 1}")

    def _diverged(self, reason: str) -> UserError:
        return UserError(
            f"{reason}; stopped, the last good checkpoint is kept. Try a smaller optim.lr "
            f"(now {self.cfg['optim']['lr']:g}) or trainer.gradient_clip_val=1."
        )

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Evaluate a batch and return its logits (B, K)."""
        logits = self._output(batch.images, batch.are_features)
        self.val_metrics.update(logits, batch.labels)
        if self.quantities_head is not None:
            self.quantities_head.update_metrics(batch.positions)
        return logits

    def on_validation_epoch_start(self) -> None:
        """Check the loss, and synchronise buffers between processes."""
        if not self.trainer.sanity_checking:
            self.check_loss()
        if self.trainer.world_size > 1:
            # Running statistics differ between processes; checkpoints hold those of rank 0.
            for buffer in self.buffers():
                torch.distributed.broadcast(buffer, 0)

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics, which checkpoints and early stopping monitor."""
        self.log_dict(self.compute_and_reset("val"))

    def compute_and_reset(self, stage: Literal["train", "val"]) -> dict[str, float]:
        """Return and reset the metrics of a stage: ``<stage>/loss``, ``<stage>/accuracy``, ...

        ``loss`` is the cross-entropy, ``criterion`` the value of the loss that is trained; on val,
        both are computed with hard labels.
        """
        if stage == "train":
            values = self.train_metrics.compute()
            self.train_metrics.reset()
        else:
            values = self.val_metrics.compute(self.criterion)
            self.val_metrics.reset()
            if self.quantities_head is not None:
                values |= self.quantities_head.compute_and_reset()
        return {f"{stage}/{name}": float(value) for name, value in values.items()}

    def running_metrics(self) -> dict[str, float]:
        """Return loss and accuracy of the epoch so far in this process, for the progress bar."""
        if not self.train_metrics.update_called:
            return {}
        means = self.train_metrics.means()
        return {"loss": float(means["loss"]), "acc": float(means["accuracy"])}

    def configure_optimizers(self) -> Any:
        """Build optimiser and schedule; step counts come from the trainer."""
        optim, model = self.cfg["optim"], self.cfg["model"]
        self.set_frozen(0)
        lr, decay = optim["lr"], optim["weight_decay"]
        groups = param_groups(
            self.model, lr, decay, model["layer_decay"], optim["decay_norm_and_bias"]
        )
        for name, head in self._heads.items():
            parameters = list(head.parameters())
            groups.append({"params": parameters, "lr": lr, "weight_decay": 0.0, "name": name})
        optimizer = build_optimizer(optim, groups, self._is_fused())
        epochs = self.trainer.max_epochs
        assert epochs is not None
        steps = max(1, round(self.trainer.estimated_stepping_batches / epochs))
        self._schedule = build_schedule(self.cfg["schedule"], optimizer, steps, epochs)
        if self._schedule is None or isinstance(self._schedule, ReduceLROnPlateau):
            return optimizer
        schedule = {"scheduler": self._schedule, "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def _is_fused(self) -> bool:
        device = self.trainer.strategy.root_device
        precision = str(self.trainer.precision)
        return supports_fused(self.cfg, device, precision, self._device_mesh is not None)

    def step_plateau(self, metrics: dict[str, float]) -> None:
        """Step ``schedule=plateau`` at the end of an epoch.

        Lightning would step it after the checkpoint is written, and lose the step on resume.
        """
        if isinstance(self._schedule, ReduceLROnPlateau):
            key = self.cfg["schedule"]["monitor"]
            if key not in metrics:
                raise unknown("metric", key, metrics, "Set it with schedule.monitor=<metric>.")
            self._schedule.step(metrics[key])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the card, the metrics of the current epoch and the state of the plateau schedule."""
        checkpoint[ckpt.CARD] = {**self.card, "epoch": self.current_epoch}
        if self._device_mesh is None:
            self._index_states_by_parameter(checkpoint.get("optimizer_states", []))
        checkpoint["half_epoch"] = {
            # Summed over the processes; every state of the metrics is a sum.
            "state": {
                key: self.trainer.strategy.reduce(value.clone(), reduce_op="sum")
                for key, value in self.train_metrics.metric_state.items()
                if isinstance(value, Tensor)
            },
            "updates": self.train_metrics._update_count,
        }
        if isinstance(self._schedule, ReduceLROnPlateau):
            state = dict(self._schedule.state_dict())
            checkpoint["plateau"] = {key: _to_builtin(value) for key, value in state.items()}

    def _index_states_by_parameter(self, states: list[dict[str, Any]]) -> None:
        """Renumber optimiser states in the order of the network's parameters, in place.

        Optimisers number their states by parameter group and accept any other numbering. ``fsdp``
        requires the order of the parameters.
        """
        index = {id(parameter): n for n, parameter in enumerate(self.parameters())}
        for state, optimizer in zip(states, self.trainer.optimizers, strict=False):
            new = [index[id(p)] for group in optimizer.param_groups for p in group["params"]]
            state["state"] = {new[old]: value for old, value in state["state"].items()}
            state["param_groups"] = [
                {**group, "params": [new[old] for old in group["params"]]}
                for group in state["param_groups"]
            ]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what :meth:`on_save_checkpoint` added until training starts."""
        self._restored_metrics = checkpoint.get("half_epoch", {})
        self._restored_plateau = checkpoint.get("plateau")
        for state in checkpoint.get("optimizer_states", []):
            for group in state["param_groups"]:
                # The checkpoint may come from another device, where fused was supported or not.
                group["fused"] = self._is_fused() or None

    def on_train_start(self) -> None:
        """Restore metrics and schedule, after Lightning has built and restored the optimiser."""
        saved = self._restored_metrics
        if self.global_rank == 0:
            state = saved.get("state", {})
            if saved.get("train_scores.accuracy", {}).get("updates") or (
                saved.get("updates") and "criterion" not in state
            ):
                print(
                    "resumed from a checkpoint of an older version: the training metrics of this "
                    "epoch cover only the batches after it"
                )
            # The metrics of all processes are restored in rank 0.
            elif saved.get("updates"):
                for key, value in state.items():
                    setattr(self.train_metrics, key, value.to(self.device))
                self.train_metrics._update_count = saved["updates"]
        if self._restored_plateau is not None and isinstance(self._schedule, ReduceLROnPlateau):
            self._schedule.load_state_dict(self._restored_plateau)
        self._restored_metrics, self._restored_plateau = {}, None
        for optimizer in self.trainer.optimizers:
            if self._is_fused():
                match_memory_format(optimizer)
            else:  # with fsdp, optimisers are restored before on_load_checkpoint
                for group in optimizer.param_groups:
                    group["fused"] = None
        self.set_frozen(self.current_epoch)
        train_mode(self.model)


def _to_builtin(value: Any) -> Any:
    return value.item() if hasattr(value, "item") and not isinstance(value, Tensor) else value
