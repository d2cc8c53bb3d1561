"""Fetches a dataset from Minari's server."""

from dtag_fast.data import catalog


def download(dataset_id: str) -> None:
    """Download a dataset under the Minari root, with Minari's own client.

    Which server: MINARI_REMOTE, else Minari's default.

    Raises:
        ValueError: the dataset is here already.
        OSError: it could not be fetched; the message says what to install, or what to put where instead.
    """
    from minari import download_dataset

    root = catalog.minari_root()
    folder = root / dataset_id
    if (folder / "data" / catalog.METADATA_FILE).is_file():
        raise ValueError(
            f"{dataset_id!r} lies in {folder} already; remove it with: minari delete {dataset_id}"
        )
    try:
        with catalog.minari_root_at(root):
            # A folder without metadata is what an interrupted download left.
            download_dataset(dataset_id, force_download=folder.exists())
    except ImportError as error:
        raise OSError(
            f"download: {dataset_id!r} needs a package that is missing: pip install 'dtag_fast[download]' "
            f"({error})"
        ) from error
    except Exception as error:  # whatever Minari's clients of its servers raise, without a network say
        raise OSError(
            f"download: {dataset_id!r} could not be fetched ({type(error).__name__}: {error}); where there "
            "is no network, copy the dataset's folder (it holds data/metadata.json) from a machine that has "
            f"it to {folder}, or set {catalog.ROOT_VARIABLE} to the root it lies under"
        ) from error
