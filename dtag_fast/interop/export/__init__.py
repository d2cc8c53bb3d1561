"""Policies and Action Gradient for other runtimes, written out in plain operators.

operators.py        the operators, as PyTorch computes them
onnx_operators.py   the same operators, as nodes of an ONNX graph
activations.py      activation functions and their derivatives
transformer.py      the blocks
policies.py         what each kind of policy does with a window
critic_gradient.py  Q of a CriticProgram and dQ/da, by the chain rule
action_gradient.py  the loop, unrolled
acting.py           policy and loop together, and as a module for torch.export
onnx_file.py        the file, its metadata, and its verification

The network is written once. PyTorch evaluates it for tests and torch.export, ONNX keeps it in a file; neither
needs autograd, and the file does not depend on how some release of PyTorch takes a module apart.
"""
