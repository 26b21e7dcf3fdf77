# $ soliton run image.sif
# Hello everybody from /opt/venv
# $ soliton run image.sif greet me
# Hello me from /opt/venv
# $ soliton exec image.sif sh -c "ls -d /wheels /requirements.txt 2>/dev/null; true"
FROM ./python.sif
# What is bound for a step is in no image.
ENV PATH=/opt/venv/bin:$PATH \
    PIP_NO_INDEX=1
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=wheels,target=/wheels \
    --mount=type=bind,source=requirements.txt,target=/requirements.txt \
    python3 -m venv /opt/venv && pip install --find-links /wheels -r /requirements.txt && test ! -e /proc/1/root/nothing
CMD ["greet", "everybody"]
