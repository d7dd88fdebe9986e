#!/usr/bin/env bash
# A sweep on Slurm, one Ray on all its nodes. In the environment that has eexit installed, from the repository's top:
#   sbatch --nodes=4 --gpus-per-node=8 cluster/deploy/slurm.sh --config mine.toml --out /shared/results/mine
# --out is a folder all nodes share. Preempted, or out of time: submit the same line again, and it goes on.
#SBATCH --job-name=eexit
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
set -euo pipefail

nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST") # whole: one that is cut off in a pipe would end this script
address=$(srun --nodes=1 --ntasks=1 --nodelist="${nodes%%$'\n'*}" hostname --ip-address | awk '{print $1}'):6379

# One token for all nodes, for this job alone; srun hands the environment on.
RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN

srun --kill-on-bad-exit=1 ray symmetric-run \
  --address "$address" \
  --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus "$SLURM_CPUS_PER_TASK" \
  -- env RAY_ADDRESS="$address" python jobs/sweep.py "$@"
