"""`python -m tskd_ray` is `tskd`."""

from tskd_ray.cli import main

if __name__ == "__main__":
    main()
