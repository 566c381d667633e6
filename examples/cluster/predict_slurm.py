"""Orientations of a scan on a cluster with SLURM: workers are jobs, which come and go.

    pip install "pyxem-dl[distributed]" dask-jobqueue
    python predict_slurm.py /shared/scan.zspy mgo-300kv /shared/map.zarr --jobs 8

Run it where jobs can be submitted, and where it may stay (a login node, or a small job of its own). The scan and
pyxem_dl must be where the jobs see them, under the same paths. A job that ends early, for its time is over or a node
fails, has its blocks done again by the others; if this script ends, the same command continues.
"""

import argparse

import hyperspy.api as hs
from dask.distributed import Client
from dask_jobqueue import SLURMCluster


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", help="any file that HyperSpy reads")
    parser.add_argument("model", help="a bundled model, or a model folder")
    parser.add_argument("output", help=".zarr, which another process may open meanwhile; or .h5, .ang, .ctf")
    parser.add_argument("--jobs", type=int, default=4, help="at most so many jobs at once")
    parser.add_argument("--cores", type=int, default=8, help="of each job: a worker with one thread for each")
    parser.add_argument("--memory", default="24GB", help="of each job; a worker needs about 2 GB")
    parser.add_argument("--walltime", default="02:00:00", help="of each job")
    parser.add_argument("--queue", help="partition of SLURM")
    given = parser.parse_args()
    cluster = SLURMCluster(
        queue=given.queue, cores=given.cores, processes=given.cores, memory=given.memory, walltime=given.walltime,
        job_script_prologue=["export OMP_NUM_THREADS=1"],
    )  # fmt: skip
    with cluster, Client(cluster) as client:
        cluster.adapt(minimum_jobs=1, maximum_jobs=given.jobs)
        client.wait_for_workers(1)
        signal = hs.load(given.scan, lazy=True)
        xmap = signal.predict_orientation(given.model, output=given.output)
        print(xmap)


if __name__ == "__main__":
    main()
