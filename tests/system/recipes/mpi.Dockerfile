# $ soliton run image.sif
# 0 of 2
# 1 of 2
FROM ./toolchain.sif
COPY hello_mpi.c /usr/src/
WORKDIR /usr/src
RUN mpicc -o /usr/local/bin/hello_mpi hello_mpi.c && rm hello_mpi.c
ENV OMP_NUM_THREADS=1
ENTRYPOINT mpiexec -n 2 hello_mpi
