# docker build -t hierarchy .                      both frameworks, for CPU (and for torch on a GPU)
# docker build -t hierarchy --build-arg GPU=1 .    TensorFlow with CUDA as well, in .venv-tf; run with --gpus all
# Neither has been built yet: no engine ran where this was written.
# .dockerignore leaves .git out: records made in here have no commit and cannot be committed. To give a run to the
# table, make it in a checkout (CONTRIBUTING.md).
FROM python:3.12-bookworm
ARG GPU=
# make in the container then runs the TensorFlow papers in .venv-tf, as `make setup` made it here
ENV GPU=${GPU}
WORKDIR /repository
COPY . .
RUN make setup
CMD ["make", "reproduce-class2str"]
