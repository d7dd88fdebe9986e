from ray_here import ray_here
