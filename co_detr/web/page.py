"""The page's controls and what they do, by Gradio."""

import json
from pathlib import Path
from typing import Any

import gradio as gr

from co_detr.data import UnreadablePicture

from .heat import BRANCH, ENCODER
from .saving import LastFiles
from .server import MAX_UPLOAD
from .viewer import LEAST_SCORE, View, Viewer

COLUMNS = ("class", "score", "x1", "y1", "x2", "y2")
DAY = 86400  # seconds

HEAT_MAPS = {BRANCH: "of the branch", ENCODER: "of the encoder"}
WELCOME = "Drop a picture on the left: what is in it appears here."

CSS = """
.gradio-container { max-width: 1400px !important; }
#picture img { max-height: 72vh; object-fit: contain; }
#status { min-height: 1.6em; }
"""


def only_uploads(file: gr.File) -> gr.File:
    """The same component, which takes what was uploaded and nothing else.

    Gradio would fetch an address for whoever names one instead of uploading, and, on a page that it
    does not launch itself, copy any file of this machine.
    """
    move = file.async_move_resource_to_block_cache
    uploads = Path(file.GRADIO_CACHE).resolve()

    async def move_upload(path: str | Path | None) -> str | None:
        if path is not None and not Path(path).resolve().is_relative_to(uploads):
            raise gr.Error("This is no upload: only uploaded files are read.")
        return await move(path)

    # by assignment: of a class that inherits from its own, Gradio writes a stub file
    file.async_move_resource_to_block_cache = move_upload
    return file


def look_of_page() -> dict[str, Any]:
    """`theme` and `css` of the page; its fonts are those of the machine that shows it."""
    theme = gr.themes.Default(
        primary_hue="teal",
        font=[gr.themes.Font("system-ui"), gr.themes.Font("sans-serif")],
        font_mono=[gr.themes.Font("ui-monospace"), gr.themes.Font("monospace")],
    )
    return {"theme": theme, "css": CSS}


def build_page(viewer: Viewer, name: str, threshold: float, folder: Path) -> gr.Blocks:
    """The page of a model.

    Args:
        viewer: of the model.
        name: of its weights.
        threshold: least score at first, 0 to 1.
        folder: for files that are saved; Gradio's own.
    """
    answers = Answers(viewer, folder)
    classes = len(viewer.detector.categories)
    with gr.Blocks(
        title=f"{name} - Co-DETR", analytics_enabled=False, delete_cache=(DAY // 24, DAY)
    ) as page:
        gr.Markdown(
            f"# Co-DETR\n`{name}`, {classes} {'class' if classes == 1 else 'classes'}, "
            f"on {viewer.detector.device}"
        )
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                file = only_uploads(
                    gr.File(label=f"Picture, up to {MAX_UPLOAD.upper()}", height=150)
                )
                least = gr.Slider(
                    LEAST_SCORE,
                    1,
                    value=max(threshold, LEAST_SCORE),
                    step=0.01,
                    label="Least score",
                    buttons=[],
                )
                branch = gr.Radio(
                    viewer.branches,
                    value=viewer.branch or None,
                    label="Branch",
                    info="whose detections: the decoder's (matching) or an auxiliary head's",
                    visible=len(viewer.branches) > 1,
                )
                heat = gr.Radio(
                    [("none", ""), *((HEAT_MAPS[kind], kind) for kind in viewer.heat_maps)],
                    value="",
                    label="Heat map",
                    info="what speaks for the detections of the branch, or where the encoder's "
                    "features are strong",
                    visible=bool(viewer.heat_maps),
                )
            with gr.Column(scale=3, min_width=480):
                status = gr.Markdown(WELCOME, elem_id="status")
                picture = gr.Image(
                    label="Detections",
                    elem_id="picture",
                    format="jpeg",
                    interactive=False,
                    buttons=["download", "fullscreen"],
                )
                table = gr.Dataframe(
                    headers=list(COLUMNS),
                    datatype=["str", *["number"] * (len(COLUMNS) - 1)],
                    label="Detections, boxes in pixels",
                    interactive=False,
                    max_height=320,
                    elem_id="table",
                )
                save = gr.DownloadButton("Save as COCO file", size="sm", interactive=False)
        gr.on(
            [file.change, least.change, branch.change, heat.change],
            answers.show,
            [file, least, branch, heat],
            [status, picture, table, save],
            trigger_mode="always_last",  # a slider that moves on is not followed step by step
            show_progress="minimal",
            show_progress_on=picture,
            api_visibility="private",
        )
    return page


class Answers:
    """What the page shows for its controls.

    Args:
        viewer: of the model.
        folder: for COCO files, of which the last ones are kept.
    """

    def __init__(self, viewer: Viewer, folder: Path) -> None:
        self.viewer = viewer
        self._files = LastFiles(folder)

    def show(self, path: str | None, threshold: float, branch: str | None, heat: str | None) -> Any:
        """Status, picture, table and COCO file; without the latter ones where there is no picture
        or none that can be read.

        Args:
            path: of the upload.
            threshold, branch, heat: as for `Viewer.look`.
        """
        unsaved = gr.DownloadButton(value=None, interactive=False)
        nothing: tuple[None, list, gr.DownloadButton] = None, [], unsaved
        if path is None:
            return WELCOME, *nothing
        try:
            view = self.viewer.look(path, threshold, branch or "", heat or "")
        except UnreadablePicture as error:
            return f"**This file cannot be shown:** {error.reason}.", *nothing
        rows = self.viewer.rows(view.instances)
        saved = gr.DownloadButton(value=self._save(path, view), interactive=True)
        return status_of(view, threshold), view.drawn, rows, saved

    def _save(self, path: str, view: View) -> str:
        text = json.dumps(self.viewer.coco(path, view.instances), indent=1)
        return str(self._files.write(f"{Path(path).stem}.json", text))


def status_of(view: View, threshold: float) -> str:
    """One line on what was found."""
    height, width = view.instances.image_size
    count = len(view.instances)
    return (
        f"**{count} {'object' if count == 1 else 'objects'}** with a score of {threshold:.2f} or "
        f"more; {view.num_found} with {LEAST_SCORE} or more. {width} x {height} pixels, "
        f"{view.seconds:.2f} s."
    )
