//! Environment scripts as images have them, and some that only a test has. `@ROOT@` stands for a directory with files.

use crate::Expected::{self, Either, Plain, Shell};

pub fn scripts() -> Vec<(&'static str, Expected, &'static str)> {
    let mut all = Vec::new();
    all.extend_from_slice(&REALISTIC);
    all.extend_from_slice(&FORMS);
    all.extend_from_slice(&LEFT);
    all
}

type Script = (&'static str, Expected, &'static str);

/// As soliton, its peers, and authors of images write them.
const REALISTIC: [Script; 30] = [
    ("01-base", Plain, "#!/bin/sh\n# Copyright of somebody\n\n"),
    (
        "10-docker2singularity",
        Plain,
        "#!/bin/sh\nexport PATH=\"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\"\n\
     export LANG=\"${LANG:-\"C.UTF-8\"}\"\nexport GPG_KEY=\"${GPG_KEY:-\"7169605F62C751356D054A26A821E680E5FA6305\"}\"\n\
     export FOO=\"${FOO:-\"with spaces, and = signs\"}\"\n",
    ),
    ("10-docker-path", Plain, "export PATH=\"${PATH:-\"/usr/bin\"}\"\n"),
    (
        "10-docker-unquoted",
        Plain,
        "export JAVA_HOME=${JAVA_HOME:-/usr/lib/jvm/java}\nexport PATH=\"$JAVA_HOME/bin:$PATH\"\n",
    ),
    ("10-docker-empty", Plain, "export EMPTY=\"${EMPTY:-\"\"}\"\nexport A=\"${A:-}\"\n"),
    ("10-docker-quotes", Either, "export Q=\"${Q:-\"it's\"}\"\nexport R=\"${R:-\"say \\\"hi\\\"\"}\"\n"),
    (
        "10-soliton-odd",
        Plain,
        "if [ -z \"${ODD:-}\" ]; then\n    ODD=\"a {b} 'c' \\\"d\\\" \\$e \\`f\\` \\\\g\"\nfi\nexport ODD\n",
    ),
    (
        "90-plain",
        Plain,
        "#!/bin/sh\n# Custom environment shell code should follow\n\n\n    export LC_ALL=C\n    export PATH=/usr/games:$PATH\n    LISTEN_PORT=12345\n    export LISTEN_PORT\n",
    ),
    ("90-multiple", Plain, "export A=1 B=2\nexport C=\"$A$B\" D\nD=later\n"),
    (
        "94-appsbase",
        Plain,
        "# the app one\nexport SCIF_APPDATA_one=\"/scif/data/one\"\nexport SCIF_APPROOT_one=\"/scif/apps/one\"\n",
    ),
    (
        "95-apps",
        Plain,
        "if test -n \"${SINGULARITY_APPNAME:-}\"; then\n\n    # The active app should be exported\n    export SINGULARITY_APPNAME\n\n\
     if test -d \"@ROOT@/scif/apps/${SINGULARITY_APPNAME:-}/\"; then\n        SCIF_APPS=\"@ROOT@/scif/apps\"\n        SCIF_APPROOT=\"@ROOT@/scif/apps/${SINGULARITY_APPNAME:-}\"\n        export SCIF_APPROOT SCIF_APPS\n\
     PATH=\"@ROOT@/scif/apps/${SINGULARITY_APPNAME:-}:$PATH\"\n\n        # Automatically add application bin to path\n        if test -d \"@ROOT@/scif/apps/${SINGULARITY_APPNAME:-}/bin\"; then\n            PATH=\"@ROOT@/scif/apps/${SINGULARITY_APPNAME:-}/bin:$PATH\"\n        fi\n\n\
     if test -d \"@ROOT@/scif/apps/${SINGULARITY_APPNAME:-}/lib\"; then\n            LD_LIBRARY_PATH=\"x:$LD_LIBRARY_PATH\"\n            export LD_LIBRARY_PATH\n        fi\n\n\
     if [ -f \"@ROOT@/scif/apps/${SINGULARITY_APPNAME:-}/scif/env/01-base.sh\" ]; then\n            . \"@ROOT@/scif/apps/${SINGULARITY_APPNAME:-}/scif/env/01-base.sh\"\n        fi\n\
     if [ -f \"@ROOT@/scif/apps/${SINGULARITY_APPNAME:-}/scif/env/90-environment.sh\" ]; then\n            . \"@ROOT@/scif/apps/${SINGULARITY_APPNAME:-}/scif/env/90-environment.sh\"\n        fi\n        export PATH\n    else\n        echo \"Could not locate the container application: ${SINGULARITY_APPNAME}\"\n        exit 1\n    fi\nfi\n",
    ),
    (
        "99-base",
        Plain,
        "if [ -z \"$LD_LIBRARY_PATH\" ]; then\n    LD_LIBRARY_PATH=\"/.singularity.d/libs\"\nelse\n    LD_LIBRARY_PATH=\"$LD_LIBRARY_PATH:/.singularity.d/libs\"\nfi\n\nPS1=\"Singularity> \"\nexport LD_LIBRARY_PATH PS1\n",
    ),
    (
        "99-base-soliton",
        Plain,
        "if [ -n \"${LD_LIBRARY_PATH:-}\" ]; then\n    LD_LIBRARY_PATH=\"$LD_LIBRARY_PATH:/.singularity.d/libs\"\nelse\n    LD_LIBRARY_PATH=\"/.singularity.d/libs\"\nfi\nif [ -z \"${PS1:-}\" ]; then\n    PS1=\"Apptainer> \"\nfi\nexport LD_LIBRARY_PATH PS1\n",
    ),
    (
        "99-runtimevars",
        Plain,
        "if [ -n \"${SING_USER_DEFINED_PREPEND_PATH:-}\" ]; then\n\tPATH=\"${SING_USER_DEFINED_PREPEND_PATH}:${PATH}\"\nfi\n\nif [ -n \"${SING_USER_DEFINED_APPEND_PATH:-}\" ]; then\n\tPATH=\"${PATH}:${SING_USER_DEFINED_APPEND_PATH}\"\nfi\n\n\
     if [ -n \"${SING_USER_DEFINED_PATH:-}\" ]; then\n\tPATH=\"${SING_USER_DEFINED_PATH}\"\nfi\n\nunset SING_USER_DEFINED_PREPEND_PATH \\\n      SING_USER_DEFINED_APPEND_PATH \\\n      SING_USER_DEFINED_PATH\n\nexport PATH\n",
    ),
    (
        "conda",
        Plain,
        "export CONDA_PREFIX=/opt/conda\nexport CONDA_SHLVL=1\nexport PATH=/opt/conda/bin:$PATH\nCONDA_DEFAULT_ENV=base; export CONDA_DEFAULT_ENV\n",
    ),
    (
        "conda-activate-d",
        Plain,
        "for script in @ROOT@/etc/conda/activate.d/*.sh; do\n    if [ -r \"$script\" ]; then\n        . \"$script\"\n    fi\ndone\nunset script\n",
    ),
    (
        "conda-hook",
        Shell,
        "__conda_setup=\"$('/opt/conda/bin/conda' 'shell.posix' 'hook' 2> /dev/null)\"\nif [ $? -eq 0 ]; then\n    eval \"$__conda_setup\"\nelse\n    if [ -f \"/opt/conda/etc/profile.d/conda.sh\" ]; then\n        . \"/opt/conda/etc/profile.d/conda.sh\"\n    else\n        export PATH=\"/opt/conda/bin:$PATH\"\n    fi\nfi\nunset __conda_setup\n",
    ),
    ("micromamba", Shell, "eval \"$(micromamba shell hook --shell=posix)\"\nmicromamba activate base\n"),
    (
        "modules",
        Plain,
        "MODULEPATH=${MODULEPATH:+$MODULEPATH:}/opt/modulefiles; export MODULEPATH\nif [ \"${MODULEPATH%%:*}\" = \"/m1\" ]; then export FIRST=yes; fi\nLOADEDMODULES=${LOADEDMODULES:-}; export LOADEDMODULES\n",
    ),
    ("lmod-init", Shell, "if [ -z \"$USER_IS_ROOT\" ]; then\n  . /usr/share/lmod/lmod/init/profile\nfi\n"),
    (
        "spack",
        Plain,
        "export PATH=\"/opt/view/bin${PATH:+:$PATH}\";\nexport MANPATH=\"/opt/view/share/man${MANPATH:+:$MANPATH}\";\nexport CMAKE_PREFIX_PATH=\"/opt/view${CMAKE_PREFIX_PATH+:$CMAKE_PREFIX_PATH}\"\n",
    ),
    (
        "cuda",
        Plain,
        "export PATH=/usr/local/cuda/bin${PATH:+:${PATH}}\nexport LD_LIBRARY_PATH=/usr/local/cuda/lib64${LD_LIBRARY_PATH:+:${LD_LIBRARY_PATH}}\nexport NVIDIA_VISIBLE_DEVICES=\"${NVIDIA_VISIBLE_DEVICES:-\"all\"}\"\n",
    ),
    (
        "openmpi",
        Plain,
        "export OMPI_DIR=/opt/ompi\nexport SINGULARITY_OMPI_DIR=$OMPI_DIR\nexport SINGULARITYENV_APPEND_PATH=$OMPI_DIR/bin\nexport PATH=\"$OMPI_DIR/bin:$PATH\"\n",
    ),
    (
        "profile-d",
        Plain,
        "for i in @ROOT@/etc/profile.d/*.sh ; do\n    if [ -r \"$i\" ]; then\n        . \"$i\" >/dev/null\n    fi\ndone\nunset i\n",
    ),
    (
        "pathmunge",
        Shell,
        "pathmunge () {\n    case \":${PATH}:\" in\n        *:\"$1\":*) ;;\n        *) PATH=$1:$PATH ;;\n    esac\n}\npathmunge /opt/bin\n",
    ),
    (
        "add-once",
        Plain,
        "case \":${PATH}:\" in\n    *:\"/opt/bin\":*)\n        ;;\n    *)\n        export PATH=\"/opt/bin:$PATH\"\n        ;;\nesac\n",
    ),
    ("intel", Shell, "source /opt/intel/oneapi/setvars.sh\n"),
    ("nproc", Shell, "export OMP_NUM_THREADS=$(nproc)\n"),
    ("home", Plain, "export MYHOME=\"$HOME/sub dir\"\nexport XDG=\"${XDG_CONFIG_HOME:-$HOME/.config}\"\n"),
    ("crlf", Plain, "export CR=1\r\nexport LF=\"2\"\r\n"),
];

/// Forms of the language, one by one.
const FORMS: [Script; 48] = [
    ("quotes", Plain, "export Q='single $A \"x\"' R=\"double 'y' \\$ \\\\ \\n\" S=un\\ quoted\\$\n"),
    ("adjacent", Plain, "export Q='a'\"b\"c\"$FOO$A\"'d'\n"),
    ("joined-lines", Plain, "export Q=/a\\\n:/b\\\n:/c\nexport R=\"x\\\ny\"\n"),
    ("newlines-in-quotes", Plain, "export Q='one\ntwo\n'\nexport R=\"$C\nend\"\n"),
    ("dollars", Plain, "export Q=\"$\" R=a$ S=\"$ x\" T=$%\n"),
    ("hash", Plain, "export Q=a#b # comment\nexport R=#no\nexport S=\"#no\";# comment\n"),
    ("defaults", Plain, "export Q=\"${A-unset}\" R=\"${A:-empty}\" S=\"${NONE-unset}\" T=\"${NONE:-}\"\n"),
    ("alternatives", Plain, "export Q=\"${A+set}\" R=\"${A:+filled}\" S=\"${NONE+set}\" T=${NONE:+x}\n"),
    ("assigned-defaults", Plain, ": ${NEW:=value} \"${A:=filled}\" ${FOO=kept}\nexport NEW\n"),
    ("required", Plain, ": \"${PATH?must be there}\"\n"),
    ("required-and-missing", Shell, "export Q=1\n: ${NONE:?is missing}\n"),
    ("lengths", Plain, "N=hello; export Q=${#N} R=${#NONE} S=${#}\n"),
    ("prefixes", Plain, "V=a.b.c.d; export Q=${V#*.} R=${V##*.} S=${V#x} T=\"${V#a}\" U=\"${V#\"a.\"}\"\n"),
    (
        "suffixes",
        Plain,
        "V=/usr/lib/x.tar.gz; export Q=${V%.*} R=${V%%.*} S=${V%/*} T=\"${V%\"*\"}\" U=${V%%/*}x\n",
    ),
    ("suffix-in-variable", Plain, "V=a-b-c; P='-*'; export Q=${V%$P} R=${V%\"$P\"} S=\"${V%%$P}\"\n"),
    ("host-value-shortened", Either, "export Q=${FOO%%[:=]*} R=\"${A# }\" S=\"${B#\\*}\"\n"),
    ("nested-defaults", Plain, "export Q=\"${N1:-${N2:-${N3:-deep}}}\" R=${N1:-\"${N2:-q}\"}\n"),
    ("nested-quotes-with-variable", Plain, "export Q=\"${NONE:-\"$PATH\"}\"\n"),
    ("unquoted-assignment", Plain, "Q=$A; R=$A$B; S=$C; export Q R S\n"),
    ("unquoted-export", Either, "export Q=$A\n"),
    ("tilde", Either, "Q=~ R=~/bin:~/lib S='~' T=a~; export Q R S T\n"),
    ("split", Plain, "L=\"a  b c\"; for i in $L \"$L\" ''; do Q=\"$Q<$i>\"; done; export Q\n"),
    (
        "split-odd",
        Plain,
        "S=' a b '; for i in x$S$S${NONE}z ${NONE:-p q} ${NONE:-\"p q\"}; do Q=\"$Q<$i>\"; done; export Q\n",
    ),
    ("split-host", Either, "for i in $A $B $C $FOO; do Q=\"$Q<$i>\"; done; export Q\n"),
    (
        "arguments",
        Plain,
        "for i in \"$@\" $@ $*; do Q=1; done; for i do R=1; done; export Q R N=$# O=\"$*\" P=\"$@\"\n",
    ),
    ("arguments-empty-field", Plain, "for i in \"$*\" \"$1\" ${2:-x}; do Q=\"$Q<$i>\"; done; export Q\n"),
    (
        "globs",
        Plain,
        "for i in @ROOT@/etc/*.sh @ROOT@/none/*.x @ROOT@/*/conda @ROOT@/opt/*/bin @ROOT@/[e]mpty; do Q=\"$Q<$i>\"; done; export Q\n",
    ),
    (
        "glob-quoted",
        Plain,
        "P='*'; for i in \"*\" \\* '@ROOT@/*' \"$P\" @ROOT@/empty/$P; do Q=\"$Q<$i>\"; done; S=$P; export Q R=* S\n",
    ),
    ("glob-dangling", Plain, "for i in @ROOT@/d*g @ROOT@/l*k/false.sh; do Q=\"$Q<$i>\"; done; export Q\n"),
    (
        "if-chain",
        Plain,
        "if false; then Q=1; elif [ 1 -eq 2 ]; then Q=2; elif true; then Q=3; else Q=4; fi; export Q\n",
    ),
    (
        "and-or",
        Plain,
        "false && Q=1 || R=2; true || S=3 && T=4; ! true || U=5; export Q R S T U; [ -z \"$NONE\" ] && export V=6\n",
    ),
    (
        "status-of-if",
        Plain,
        "if false; then :; fi && export Q=1\nfor i in; do false; done && export R=1\ncase x in y) ;; esac && export S=1\n",
    ),
    ("group", Plain, "{ Q=1; { R=2; }; export Q R; } && export S=3\n"),
    (
        "tests-of-files",
        Plain,
        "[ -e @ROOT@/etc ] && Q=$Q.e; [ -f @ROOT@/etc/empty.sh ] && Q=$Q.f; [ -s @ROOT@/etc/empty.sh ] && Q=$Q.s; [ -L @ROOT@/dangling ] && Q=$Q.L\n\
     [ -e @ROOT@/dangling ] && Q=$Q.E; [ -d @ROOT@/link ] && Q=$Q.d; [ -p @ROOT@/fifo ] && Q=$Q.p; [ -h @ROOT@/link ] && Q=$Q.h; [ -f '' ] && Q=$Q.none; test -c /dev/null && Q=$Q.c\nexport Q\n",
    ),
    (
        "tests-of-text",
        Plain,
        "[ a = a ] && Q=$Q.1; [ a != a ] || Q=$Q.2; [ '' ] || Q=$Q.3; [ -n ] && Q=$Q.4; [ ! '' ] && Q=$Q.5; [ ] || Q=$Q.6; [ -n = -n ] && Q=$Q.7; export Q\n",
    ),
    (
        "tests-of-numbers",
        Plain,
        "[ 007 -eq 7 ] && Q=$Q.1; [ -3 -lt 2 ] && Q=$Q.2; [ 2 -ge 3 ] || Q=$Q.3; [ 5 -le 5 ] && Q=$Q.4; [ 1 -ne 1 ] || Q=$Q.5; export Q\n",
    ),
    (
        "tests-joined",
        Plain,
        "[ -n x -a -d / ] && Q=$Q.1; [ -z x -o a = a ] && Q=$Q.2; [ -n x -o -n y -a -z z ] && Q=$Q.3; [ ! -z x -a ! a = b ] && Q=$Q.4; export Q\n",
    ),
    (
        "cases",
        Plain,
        "for i in abc '*' '' x7 '[z' 'a b' -; do case $i in abc|def) Q=$Q.1;; '*') Q=$Q.2;; '') Q=$Q.3;; x[0-9]) Q=$Q.4;; [!a-]z) Q=$Q.5;; ?\\ ?) Q=$Q.6;; *) Q=$Q.7;; esac; done; export Q\n",
    ),
    (
        "case-forms",
        Plain,
        "case a in (a) export Q=1 ;; esac\ncase b in\n  a) ;;\n  b) export R=1\nesac\ncase \"$NONE\" in \"\") export S=1;; esac\ncase c in\nesac\n",
    ),
    (
        "case-variable-pattern",
        Plain,
        "P='a*'; case abc in $P) export Q=1;; esac; case abc in \"$P\") export R=1;; *) export R=2;; esac\n",
    ),
    (
        "loops",
        Plain,
        "for i in 1 2 3 4; do [ $i = 2 ] && continue; [ $i = 4 ] && break; Q=$Q$i; done; export Q i\n",
    ),
    ("nested-loops", Plain, "for i in 1 2; do for j in a b; do Q=$Q$i$j; break; done; done; export Q\n"),
    ("export-then-assign", Plain, "export LATE; LATE=1; export NEVERSET; A=changed; unset B; B=unexported\n"),
    ("unset", Plain, "unset FOO NONE; export Q=\"${FOO-gone}\"; FOO=back\n"),
    (
        "sourced",
        Plain,
        ". @ROOT@/etc/false.sh || export Q=1\n. @ROOT@/etc/empty.sh && export R=1\n. @ROOT@/link/profile.d/b.sh && export S=1\n",
    ),
    ("return", Plain, "export Q=1\nif [ -n \"$PATH$HOME$FOO\" ]; then return; fi\nexport R=1\n"),
    ("working-directory", Plain, "export Q=\"$PWD\"\n"),
    ("odd-spacing", Plain, "\t export\tQ=1  ; export R=2;\n\n  \n"),
];

/// What needs a real shell.
const LEFT: [Script; 40] = [
    ("substitution", Shell, "export Q=$(echo x)\n"),
    ("backquotes", Shell, "export Q=`echo x`\n"),
    ("arithmetic", Shell, "export Q=$((1+2))\n"),
    ("pipe", Shell, "true | true\n"),
    ("subshell", Shell, "(export Q=1)\n"),
    ("background", Shell, "true &\n"),
    ("function", Shell, "f() { :; }\n"),
    ("while", Shell, "while false; do :; done\n"),
    ("exit", Shell, "export Q=1\nexit 0\n"),
    ("set-e", Shell, "set -e\nfalse\nexport Q=1\n"),
    ("set-a", Shell, "set -a\nQ=1\n"),
    ("set-arguments", Shell, "set -- a b\nexport Q=$#\n"),
    ("eval", Shell, "eval 'export Q=1'\n"),
    ("command-v", Shell, "command -v sh >/dev/null && export Q=1\n"),
    ("echo", Shell, "echo hello\n"),
    ("here-document", Shell, ": <<END\n$A\nEND\n"),
    ("bash-test", Shell, "if [[ -n $A ]]; then export Q=1; fi\n"),
    ("bash-array", Shell, "Q=(a b)\n"),
    ("bash-append", Shell, "PATH+=:/x\n"),
    ("bash-substring", Shell, "export Q=${PATH:0:2}\n"),
    ("bash-replace", Shell, "export Q=${PATH//:/ }\n"),
    ("bash-quote", Shell, "export Q=$'a\\nb'\n"),
    ("bash-braces", Shell, "for i in {1..3}; do Q=$Q$i; done; export Q\n"),
    ("bash-equals", Shell, "[ a == a ] && export Q=1\n"),
    ("readonly", Shell, "readonly Q=1\n"),
    ("ifs", Shell, "IFS=:\nfor i in $PATH; do Q=\"$Q<$i>\"; done; export Q\n"),
    ("random", Shell, "export Q=$RANDOM\n"),
    ("uid", Shell, "export Q=$UID\n"),
    ("host-name", Shell, "export Q=\"$HOSTNAME\"\n"),
    ("process", Shell, "export Q=$$\n"),
    ("name-of-shell", Shell, "export Q=\"$0\"\n"),
    ("status", Shell, "true; export Q=$?\n"),
    ("prefix-assignment", Shell, "Q=1 export R=$Q\n"),
    ("redirection", Shell, ": > @ROOT@/written\n"),
    ("unclosed", Shell, "export Q=1\nexport R=\"open\n"),
    ("missing-fi", Shell, "if true; then export Q=1\n"),
    ("sources-itself", Shell, ". @ROOT@/etc/loop.sh\n"),
    ("sources-broken", Shell, ". @ROOT@/etc/broken.sh\n"),
    ("sources-missing", Shell, ". @ROOT@/etc/none.sh\n"),
    ("sources-break", Shell, "for i in 1 2; do . @ROOT@/etc/break.sh; Q=$Q$i; done; export Q\n"),
];
