# $ soliton run image.sif
# lines: 3
# $ soliton exec image.sif sh -c "cat /etc/tool.conf; echo $LEVEL"
# level=3
# 3
# $ soliton inspect image.sif
# org.example.level: 3
FROM ./debian.sif
ARG LEVEL=3
ENV LEVEL=${LEVEL:-1}
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN <<EOT
set -e
if [[ $LEVEL == 3 ]]; then
    mkdir -p /opt/tool/{bin,lib}
fi
EOT
RUN cat <<EOT > /etc/tool.conf
level=$LEVEL
EOT
RUN <<-"PERL" perl
	open(my $out, ">", "/opt/tool/lib/made") or die; print $out "by perl\n";
	PERL
COPY lines.txt "a name with blanks.txt" /opt/tool/lib/
COPY <<run /opt/tool/bin/run
#!/bin/sh
echo "lines: \$(grep -c . /opt/tool/lib/lines.txt)"
run
RUN chmod 755 /opt/tool/bin/run && test "$(< /opt/tool/lib/made)" = "by perl"
LABEL org.example.level="$LEVEL"
ENTRYPOINT /opt/tool/bin/run
