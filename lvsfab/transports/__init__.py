"""How a shell on a host is reached. fabric and paramiko live here and nowhere else."""
