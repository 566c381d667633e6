"""Orientations of a scan on all GPUs of a computer: a worker for each, which sees no other.

    pip install "pyxem-dl[distributed]" dask-cuda
    python predict_gpus.py scan.zspy mgo-300kv map.zarr

Two threads for each worker: one reads and decodes while the other has the device.
"""

import argparse

import hyperspy.api as hs
from dask.distributed import Client
from dask_cuda import LocalCUDACluster


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", help="any file that HyperSpy reads")
    parser.add_argument("model", help="a bundled model, or a model folder")
    parser.add_argument("output", help=".zarr, which another process may open meanwhile; or .h5, .ang, .ctf")
    parser.add_argument("--gpus", help="which, as in CUDA_VISIBLE_DEVICES: 0,2; by default all")
    given = parser.parse_args()
    with LocalCUDACluster(CUDA_VISIBLE_DEVICES=given.gpus, threads_per_worker=2) as cluster, Client(cluster):
        signal = hs.load(given.scan, lazy=True)
        xmap = signal.predict_orientation(given.model, output=given.output)  # device="auto": each worker's own
        print(xmap)


if __name__ == "__main__":
    main()
