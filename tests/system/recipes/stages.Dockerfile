# $ soliton run image.sif 20 22
# 42
# owner /usr/bin/sum 0/0
# $ soliton exec image.sif sh -c "command -v gcc || echo no compiler"
# no compiler
ARG COMPILER=toolchain
FROM ./${COMPILER}.sif AS build
WORKDIR /src
COPY project/Makefile project/*.c ./
ARG CFLAGS=-O2
RUN make && make install DESTDIR=/out

FROM ./debian.sif
COPY --from=build /out/ /
RUN ldconfig
ENTRYPOINT ["/usr/bin/sum"]
CMD ["0", "0"]
