# docker build -t hierarchy .                      both frameworks, for CPU (and for torch on a GPU)
# docker build -t hierarchy --build-arg GPU=1 .    CUDA TensorFlow; run with --gpus all
# Neither has been built yet: no engine ran where this was written.
FROM python:3.12-bookworm
ARG GPU=
# make in the container then uses the environment that was made here
ENV GPU=${GPU}
WORKDIR /repository
COPY . .
RUN make setup
CMD ["make", "reproduce-class2str"]
