"""The parts of the benchmarks that decide something; no test here says anything of speed."""
