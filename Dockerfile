# docker build -t hierarchy .                 both frameworks, for CPU (and for torch on a GPU)
# docker build -t hierarchy --build-arg GPU=1 .    CUDA TensorFlow; run with --gpus all
FROM python:3.12-bookworm
ARG GPU=
WORKDIR /repository
COPY . .
RUN make setup GPU=${GPU}
CMD ["make", "reproduce-class2str"]
