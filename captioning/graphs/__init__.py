"""The encoder as a graph of OpenVINO: conversion, cache on disk, int8."""
