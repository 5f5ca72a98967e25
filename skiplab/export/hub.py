"""Saved methods on the Hugging Face hub."""

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from skiplab.backbones.whole_weights import check_files
from skiplab.export.description import SavedMethodError, read_description

# Files that `save_method` writes; others in the folder are not uploaded.
_FILES = ("README.md", "*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "custom_generate/*")


def push_to_hub(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    message: str | None = None,
) -> str:
    """Upload a saved method with its model card to a repository, which is made if there is none, in one commit.

    Args:
        folder: what `save_models=true` or `experiment=export` wrote.
        repo_id: `USER/NAME` or `ORGANISATION/NAME`.
        private: whether a new repository is private; None follows the owner's settings.
        token: None takes `HF_TOKEN`, or the token that `hf auth login` stored.
        revision: an existing branch; None takes `main`.
        message: of the commit.

    Returns:
        The address of the commit.

    Raises:
        CheckpointError: the folder holds no saved method, its weights are damaged, or the hub refuses.
    """
    folder = Path(folder)
    description = read_description(folder)
    check_files(folder)
    if not (folder / "README.md").is_file():
        raise SavedMethodError(f"{folder} holds no README.md, its model card; save the method again")
    api = HfApi(token=token)
    try:
        made = api.create_repo(repo_id, private=private, repo_type="model", exist_ok=True)
        commit = api.upload_folder(
            repo_id=made.repo_id,
            folder_path=folder,
            allow_patterns=list(_FILES),
            revision=revision,
            commit_message=message or f"skiplab: {description['setting']}",
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise SavedMethodError(
            f"cannot push {folder} to {repo_id}: {error}. Pushing needs a token with write access: run "
            "`hf auth login`, or pass token="
        ) from error
    return str(commit.commit_url)
