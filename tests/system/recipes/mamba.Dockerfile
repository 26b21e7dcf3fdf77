# build: --build-arg ACTIVATE=1
# $ soliton run image.sif python-like
# activated: python-like
# $ soliton exec image.sif cat /opt/env/spec
# greet>=1.2
# owner /opt/env/who 0/0
# owner /home/worker/mine 5700/5700
# owner /home/worker/link 5700/5700
# owner /home/worker/work 5700/5700
# mode /usr/local/bin/entry -rwxr-xr-x
FROM ./debian.sif AS base
ARG MAMBA_USER=worker
ARG MAMBA_UID=5700
ENV MAMBA_USER=$MAMBA_USER MAMBA_ROOT=/opt/env
ENV PATH="$MAMBA_ROOT/bin:$PATH"
RUN useradd --uid "${MAMBA_UID}" --create-home "$MAMBA_USER" \
    # where everything is installed
    && mkdir -p "$MAMBA_ROOT/bin" \

    && chown "$MAMBA_USER:$MAMBA_USER" "$MAMBA_ROOT"
COPY --chmod=755 <<"EOT" /usr/local/bin/entry
#!/bin/sh
test -z "$ACTIVATE" || printf 'activated: '
exec "$@"
EOT
RUN printf '#!/bin/sh\necho python-like\n' > "$MAMBA_ROOT/bin/python-like" && chmod +x "$MAMBA_ROOT/bin/python-like"

FROM base
COPY --chown=$MAMBA_USER:$MAMBA_USER requirements.txt ${MAMBA_ROOT}/spec
USER $MAMBA_USER
ARG ACTIVATE
ENV ACTIVATE=$ACTIVATE
WORKDIR /home/$MAMBA_USER
SHELL ["/usr/local/bin/entry", "/bin/sh", "-euc"]
RUN test -f "$MAMBA_ROOT/spec"; python-like; test "$(id -u):$HOME" = "5700:/home/$MAMBA_USER"; touch mine; ln -s mine link
WORKDIR work
USER root
RUN touch /opt/env/who
ENTRYPOINT ["/usr/local/bin/entry"]
