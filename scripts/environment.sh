# Sourced by the other scripts: PYTHON is an interpreter with the packages of the requirements file named as argument.
# An active virtual environment is used as it is given; otherwise .venv is made in the project's folder.
requirements="$1"
if [ -n "${VIRTUAL_ENV:-}" ]; then
    PYTHON="$VIRTUAL_ENV/bin/python"
else
    [ -x .venv/bin/python ] || python3 -m venv .venv
    PYTHON="$PWD/.venv/bin/python"
fi
stamp="$("$PYTHON" -c 'import sys; print(sys.prefix)')/.diffusionhtr-$(cat requirements.txt "$requirements" | cksum | cut -d' ' -f1)"
if [ ! -e "$stamp" ]; then
    echo "installing the packages of $requirements (PyTorch among them: several GB with CUDA)"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check -r "$requirements"
    touch "$stamp"
fi
