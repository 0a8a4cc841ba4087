"""What a training step gives the UNet beside the latents: text, writer and layout."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from diffusion.layout import WidthModel, expected_edges, layout_columns, pad_edges
from diffusion.styles import OFFSET_SHARE, StyleReferences
from utils.charset import Charset, order_along_line
from utils.text_images import TextImage


class TrainingConditions:
    """Character ids, writer rows and layouts of all records, in memory, with null where a condition is
    dropped.

    Args:
        records: all records; writers that the model does not know become the null writer, and texts that it
            can't spell become null text (they are never drawn for training).
        writers: name to row.
        null_writer: row of the null writer, or None for a model without.
        width_model: for models with text layout, else None.
        ink: (N, 4) measured ink of each record's image, pixels. In training the layout has the image's own
            extent, so that the width of a word follows the layout exactly.
        edges: (n + 1,) borders of each text's characters in pixels, where they were measured; None: as
            ``width_model`` expects them within the ink.
        styles: for a model with style vectors, else None.
    """

    def __init__(
        self,
        records: Sequence[TextImage],
        *,
        charset: Charset,
        max_length: int,
        writers: Mapping[str, int],
        null_writer: int | None,
        width_model: WidthModel | None,
        ink: np.ndarray,
        edges: Sequence[np.ndarray] | None = None,
        styles: StyleReferences | None = None,
        device: torch.device,
    ) -> None:
        is_known = [len(r.text) <= max_length and not charset.unknown(r.text) for r in records]
        texts = [r.text if ok else "" for r, ok in zip(records, is_known, strict=True)]
        self.input_ids = charset.encode(texts, max_length).to(device)
        self.reading_ids = charset.encode([order_along_line(text) for text in texts], max_length).to(device)
        self.lengths = torch.tensor([len(text) for text in texts])  # on the CPU
        self.writer_ids = torch.tensor(
            [writers.get(record.writer, null_writer or 0) for record in records], device=device
        )
        self.pad_id, self.null_writer = charset.pad_id, null_writer
        self.writers, self.styles = [record.writer for record in records], styles
        self._edges = None
        if width_model is not None:
            if edges is None:
                edges = expected_edges(records, ink, width_model)
            edges = [borders if text else np.zeros(1) for text, borders in zip(texts, edges, strict=True)]
            self._edges = torch.from_numpy(np.stack([pad_edges(e, max_length) for e in edges])).to(device)

    def batch(
        self,
        indices: Tensor,
        columns: int,
        dropped: tuple[Tensor, Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor | None, ...]:
        """Conditions of a batch, in the order of ``UNet.forward``'s arguments.

        Args:
            indices: (B,) record numbers.
            columns: columns of the latents.
            dropped: (B,) bool for text and for writer: replaced by null.
            generator: draws which images a style vector is the mean of, and whose offset counts; None takes
                all images of the writer, and every offset.
        Returns:
            input_ids (B, L), writer_ids (B,), layout (B, 2, L, W) or None; for a model with style vectors
            writer_ids are (B, 1), and writer_weights (B, 1) and styles (B, style_dim) follow.
        """
        input_ids, writer_ids = self.input_ids[indices], self.writer_ids[indices]
        layout = None if self._edges is None else layout_columns(self._edges[indices], columns)
        if dropped is not None:
            no_text, no_writer = dropped
            input_ids = input_ids.masked_fill(no_text[:, None], self.pad_id)
            writer_ids = writer_ids.masked_fill(no_writer, self.null_writer)
            if layout is not None:
                layout = layout.masked_fill(no_text[:, None, None, None], 0.0)
        if self.styles is None:
            return input_ids, writer_ids, layout
        is_null = (writer_ids == self.null_writer)[:, None]
        styles = self.styles.draw([self.writers[i] for i in indices.tolist()], generator)
        weights = torch.ones(is_null.shape, device=is_null.device)
        if generator is not None:
            chances = torch.rand(is_null.shape, generator=generator, device=generator.device)
            weights = torch.where(is_null, weights, (chances < OFFSET_SHARE).float().to(weights.device))
        styles = styles.to(is_null.device).masked_fill(is_null, 0.0)
        return input_ids, writer_ids[:, None], layout, weights, styles
